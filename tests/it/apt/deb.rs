//! Packages as they are, and as somebody would make them to do harm.

use std::fmt::Write;
use std::fs;
use std::io;
use std::io::Read;

use release::repository::apt::Deb;
use release::repository::apt::DebVersion;

use crate::support::Lab;
use crate::support::RECIPE;
use crate::support::deb;
use crate::support::deb::CONTROL;
use crate::support::deb::Member;
use crate::support::deb::ar;
use crate::support::deb::gz;
use crate::support::deb::of_tars;
use crate::support::deb::tar;
use crate::support::deb::xz;
use crate::support::deb::zst;
use crate::support::program;
use crate::support::random::Random;
use crate::support::run;

const REJECTED: i32 = 3;

#[track_caller]
fn refused(package: &[u8], reason: &str) {
    let error = Deb::check(package).expect_err("it was taken").to_string();
    assert!(error.contains(reason), "{error}");
    assert!(!error.chars().any(char::is_control), "{error:?}");
}

#[test]
fn packages_are_read_however_dpkg_compresses_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    // Longer than a header of tar has room for.
    let deep = root.join(format!("usr/{}/{}", "d".repeat(90), "f".repeat(90)));
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::write(root.join("DEBIAN/control"), CONTROL).unwrap();
    fs::write(&deep, "content").unwrap();
    fs::hard_link(&deep, root.join("usr/link")).unwrap();
    std::os::unix::fs::symlink(format!("../{}", "x".repeat(120)), root.join("usr/symlink")).unwrap();
    for compression in ["gzip", "xz", "zstd", "none"] {
        let path = folder.path().join(compression);
        run(program("dpkg-deb").args(["--root-owner-group", "-Z", compression, "-b"]).arg(&root).arg(&path)).exits(0);
        let package = fs::read(&path).unwrap();
        let read = Deb::check(&package[..]).unwrap_or_else(|error| panic!("{compression}: {error}"));
        assert_eq!(read.control.file_name(), "kestrel_1.0-1_amd64.deb");
        assert_eq!(Deb::read(&package[..]).unwrap(), read);
        // Each end is too early.
        for end in (0..package.len()).step_by(7) {
            assert!(Deb::check(&package[..end]).is_err(), "{compression}, {end} of {} bytes", package.len());
        }
    }
    for packed in [
        deb::deb(CONTROL),
        ar(&[
            ("debian-binary/", b"2.0\n"),
            ("control.tar.zst/", &zst(&deb::control(CONTROL)[..])),
            ("data.tar.xz/", &xz(&deb::data()[..])),
        ]),
    ] {
        assert!(Deb::check(&packed[..]).is_ok(), "ours are good until something is changed");
    }
}

#[test]
fn what_is_no_package_is_refused() {
    let (control, data) = (gz(&deb::control(CONTROL)[..]), gz(&deb::data()[..]));
    let good: [(&str, &[u8]); 3] = [("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &data)];
    let with = |number: usize, member: (&'static str, &'static [u8])| {
        let mut members = good;
        members[number] = member;
        ar(&members)
    };
    refused(b"", "no ar archive");
    refused(b"PK\x03\x04 something else", "no ar archive");
    refused(b"!<arch>\n", "no Debian package");
    refused(&with(0, ("debian-binary", b"3.0\n")), "no Debian package");
    refused(&with(0, ("debian-binary", &[b'2'; 4000])), "no Debian package");
    refused(&ar(&good[1..]), "no Debian package");
    refused(&ar(&good[..1]), "no control.tar");
    refused(&ar(&good[..2]), "no data.tar");
    refused(&ar(&[good[0], good[2], good[1]]), "where control.tar should be");
    refused(&ar(&[good[0], good[1], good[1]]), "where data.tar should be");
    refused(&ar(&[good[0], good[1], good[2], good[2]]), "too many");
    refused(&ar(&[good[0], good[1], good[2], ("\u{1b}[2J", b"")]), "malformed");
    refused(&with(1, ("control.tar.bz2", b"BZh9")), "compressed in a way");
    refused(&with(2, ("data.tar.lzma", b"]")), "compressed in a way");
    refused(&with(1, ("control.tar.gz", b"not gzip")), "");
    refused(&with(1, ("control.tar.xz", b"not xz")), "");
    refused(&with(1, ("control.tar.zst", b"not zstd")), "");
    // Two streams, and what follows one: readers differ on what is in there.
    for packed in [[&control[..], &control].concat(), [&control[..], b"more"].concat()] {
        refused(&ar(&[good[0], ("control.tar.gz", &packed), good[2]]), "something follows");
    }
    let data = deb::data();
    for packed in [xz(&data[..]), zst(&data[..])] {
        let name = if packed.starts_with(b"\xfd7z") { "data.tar.xz" } else { "data.tar.zst" };
        let twice = [&packed[..], &packed].concat();
        refused(&ar(&[good[0], good[1], (name, &twice)]), "something follows");
        // The last bytes are a checksum.
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        refused(&ar(&[good[0], good[1], (name, &damaged)]), "");
        assert!(Deb::check(&ar(&[good[0], good[1], (name, &packed)])[..]).is_ok());
    }
    let archive = ar(&good);
    for (at, byte) in
        [(8 + 58, b'x'), (8 + 48, b'x'), (8 + 48, b'-'), (8 + 48, b' '), (8 + 48, b'9'), (8, 0), (8, 0xff)]
    {
        let mut changed = archive.clone();
        changed[at] = byte;
        assert!(Deb::check(&changed[..]).is_err(), "{at} {byte}");
    }
}

#[test]
fn a_package_has_one_control_file_and_it_is_short() {
    let text = CONTROL.as_bytes();
    let control: Member<'_> = (b'0', "./control", "", text);
    let of = |members: &[Member<'_>]| of_tars(&tar(members), &deb::data());
    assert!(Deb::check(&of(&[control])[..]).is_ok());
    refused(&of(&[]), "no control file");
    refused(&of(&[(b'0', "./Control", "", text)]), "no control file");
    refused(&of(&[control, control]), "there are two");
    refused(&of(&[control, (b'0', "control", "", text)]), "there are two");
    refused(&of(&[(b'2', "./control", "md5sums", b"")]), "no plain file");
    refused(&of(&[(b'1', "./control", "md5sums", b"")]), "no plain file");
    refused(&of(&[(b'5', "./control", "", b"")]), "no plain file");
    let long = format!("{CONTROL}{}", " more\n".repeat(50_000));
    refused(&deb::deb(&long), "longer than");
    // Other files there are not read, but they are unpacked by dpkg.
    let large = vec![0; 17 << 20];
    refused(&of(&[control, (b'0', "./md5sums", "", &large)]), "becomes too large");
    refused(&of(&[control, (b'0', "./../x", "", b"")]), "no path below the root");
}

#[test]
fn a_package_unpacks_nothing_elsewhere() {
    let of = |members: &[Member<'_>]| of_tars(&deb::control(CONTROL), &tar(members));
    for path in ["../x", "./../x", "./usr/../../x", "/etc/x", "usr//x", "./usr/./x", "..", "./..", "./usr/x\u{1b}[2J"] {
        for kind in [b'0', b'5', b'2'] {
            refused(&of(&[(kind, path, "x", b"")]), "is no path below the root");
        }
        refused(&of(&[(b'L', "././@LongLink", "", format!("{path}\0").as_bytes()), (b'0', "x", "", b"")]), "no path");
        refused(&of(&[(b'0', "./x", "", b""), (b'1', "./y", path, b"")]), "no path below the root");
        let long = (b'K', "././@LongLink", "", path.as_bytes());
        refused(&of(&[(b'0', "./x", "", b""), long, (b'1', "./y", "x", b"")]), "no path below the root");
    }
    refused(&of(&[(b'2', "./x", "", b"")]), "link to nowhere");
    refused(&of(&[(b'2', "./x", "a\nb", b"")]), "link to nowhere");
    refused(&of(&[(b'1', "./x", "", b"")]), "link to nowhere");
    assert!(Deb::check(&of(&[(b'2', "./x", "/etc/passwd", b"")])[..]).is_ok(), "that is for the package to say");
    // Names by other formats of tar, of which dpkg takes none; sparse files.
    for kind in *b"xgSVMDX9" {
        refused(&of(&[(kind, "./x", "", b"18 path=../../x..\n")]), "neither file, folder");
    }
    let long = "x".repeat(5000);
    refused(&of(&[(b'L', "././@LongLink", "", long.as_bytes()), (b'0', "./x", "", b"")]), "longer than");
    let mut damaged = tar(&[(b'0', "./x", "", b"")]);
    damaged[0] ^= 1;
    refused(&of_tars(&deb::control(CONTROL), &damaged), "");
}

#[test]
fn a_bomb_is_refused_before_it_takes_much() {
    const MIB: u64 = 1 << 20;
    let zeros = |length: u64| io::repeat(0).take(length);
    // A file of 8 GiB, whatever its header says; or one that never ends.
    let mut header = tar(&[(b'0', "./bomb", "", b"")])[..512].to_vec();
    header[124..136].copy_from_slice(b"77777777777\0");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let control = gz(&deb::control(CONTROL)[..]);
    for (suffix, pack) in [("gz", gz as fn(Box<dyn Read>) -> Vec<u8>), ("xz", xz), ("zst", zst)] {
        let bomb = || pack(Box::new(io::Cursor::new(header.clone()).chain(zeros(300 * MIB))));
        let control_bomb = || pack(Box::new(io::Cursor::new(header.clone()).chain(zeros(20 * MIB))));
        let name = format!("data.tar.{suffix}");
        refused(&ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &control), (&name, &bomb())]), "too large");
        let name = format!("control.tar.{suffix}");
        refused(&ar(&[("debian-binary", b"2.0\n"), (&name, &control_bomb()), ("data.tar.gz", b"")]), "too large");
    }
    // What needs a gigabyte to be unpacked, by what it says of itself: an encoder would
    // need ten, so that only the size of the dictionary is changed.
    let mut packed = xz(&deb::control(CONTROL)[..]);
    // Stream header (12), block header: size, flags, filter id, size of properties, them.
    assert_eq!(packed[14..16], [0x21, 1], "LZMA2 with one byte of properties");
    packed[16] = 37;
    let crc = crc32(&packed[12..20]);
    packed[20..24].copy_from_slice(&crc.to_le_bytes());
    refused(&ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &packed), ("data.tar.gz", b"")]), "memory");
    let mut window = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(30).unwrap();
    io::copy(&mut zeros(10), &mut window).unwrap();
    let packed = window.finish().unwrap();
    refused(&ar(&[("debian-binary", b"2.0\n"), ("control.tar.zst", &packed), ("data.tar.gz", b"")]), "memory");
}

/// CRC-32 of IEEE 802.3, as xz has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn versions_are_ordered_as_dpkg_orders_them() {
    let mut random = Random::new(7);
    let version = |random: &mut Random| {
        let epoch = *random.one_of(&["", "", "", "0:", "1:", "12:"]);
        let revision = *random.one_of(&["", "", "-0", "-1", "-1~a", "-2+b1", "-1.1", "-0a"]);
        format!("{epoch}{}{revision}", random.version().trim_end_matches('-'))
    };
    // Others, and such as differ in what may not count.
    let mut pair = || {
        let a = version(&mut random);
        let b = match random.below(8) {
            0 if !a.contains(':') => format!("0:{a}"),
            1 if !a.contains('-') => format!("{a}-0"),
            2 => a.replacen('0', "00", 1),
            3 => a.replacen('.', "~", 1),
            _ => version(&mut random),
        };
        (a, b)
    };
    let pairs: Vec<(String, String)> = (0..10_000).map(|_| pair()).collect();
    // One shell for all: 10,000 starts of dpkg are enough.
    let mut script = String::new();
    for (a, b) in &pairs {
        writeln!(
            script,
            "if dpkg --compare-versions '{a}' lt '{b}'; then echo Less; elif dpkg --compare-versions '{a}' gt '{b}'; \
             then echo Greater; else echo Equal; fi"
        )
        .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compare.sh");
    fs::write(&path, script).unwrap();
    let said = run(program("sh").arg(&path)).exits(0);
    assert_eq!(said.err, "", "dpkg takes all of them for versions");
    let orders: Vec<&str> = said.out.lines().collect();
    assert_eq!(orders.len(), pairs.len());
    let mut seen = std::collections::BTreeMap::new();
    for ((a, b), order) in pairs.iter().zip(orders) {
        let (of_a, of_b): (DebVersion, DebVersion) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(format!("{:?}", of_a.compare(&of_b)), order, "{a} and {b}");
        *seen.entry(order).or_insert(0) += 1;
    }
    assert!(seen.len() == 3 && seen.values().all(|count| *count > 50), "{seen:?}");
}

/// A laboratory whose release has this file as a package.
fn releasing(name: &str, package: &[u8]) -> Lab {
    let lab = Lab::new();
    lab.write("work/package", package);
    lab.write(
        "work/build.sh",
        format!("mkdir -p out; cp package out/{name}; cp notes out/notes; cp notes out/kestrel\n"),
    );
    lab.write("work/release.toml", format!("{RECIPE}[[artifact]]\npath = \"out/{name}\"\nkind = \"deb\"\n"));
    lab.commit("package");
    lab.tag("1.0");
    lab
}

#[test]
fn a_cut_refuses_a_package_before_anything_is_signed() {
    let other = CONTROL.replace("amd64", "arm64");
    for (name, package, reason) in [
        ("kestrel_1.0-1_amd64.deb", b"no package".to_vec(), "it is no ar archive"),
        ("kestrel_1.0-1_amd64.deb", deb::deb(&other), "what it holds is kestrel_1.0-1_arm64.deb"),
        ("kestrel_1.0-2_amd64.deb", deb::deb(CONTROL), "what it holds is kestrel_1.0-1_amd64.deb"),
    ] {
        let lab = releasing(name, &package);
        lab.cut("1.0")
            .exits(REJECTED)
            .says(&format!("{name} is no package that users could be given; nothing was signed"))
            .says(reason)
            .says("release abandon kestrel 1.0");
        lab.assert_nothing_published();
        let journal = String::from_utf8(lab.read("home/journal.jsonl")).unwrap();
        assert!(!journal.contains("claim kestrel 1.0"), "nothing was signed");
    }
    // A name that promises nothing.
    let lab = releasing("kestrel.deb", &deb::deb(CONTROL));
    lab.cut("1.0").exits(0);
    assert_eq!(lab.read(&Lab::mirrored("1.0", "kestrel.deb")), deb::deb(CONTROL));
}
