//! What the kernel says of the machine; see proc(5).

use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::Path;

use super::Finding;
use crate::home::HomeError;

/// Modules of radios.
const RADIOS: [&str; 4] = ["bluetooth", "cfg80211", "mac80211", "nfc"];

/// Looks at modules, swap and sockets. `proc` is where proc(5) is mounted.
pub(super) fn examine(proc: &Path) -> Result<[Finding; 3], HomeError> {
    let read = |name: &str| {
        let path = proc.join(name);
        fs::read_to_string(&path).map_err(|error| HomeError::io(&path, error))
    };
    // A kernel without modules, or without IPv6, has no such file.
    let maybe = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let mut open = Vec::new();
    for (name, is_tcp) in [("net/tcp", true), ("net/tcp6", true), ("net/udp", false), ("net/udp6", false)] {
        open.extend(listening(&maybe(name), is_tcp));
    }
    Ok([modules(&maybe("modules"), &maybe("sys/kernel/modules_disabled")), swap(&read("swaps")?), sockets(&open)])
}

fn modules(loaded: &str, disabled: &str) -> Finding {
    let names = loaded.lines().filter_map(|line| line.split(' ').next());
    let radios: Vec<&str> = names.filter(|name| RADIOS.contains(name)).collect();
    if !radios.is_empty() {
        let found = format!("the kernel has radios: {}", radios.join(", "));
        return Finding::bad("modules", found, format!("as root: modprobe -r {}", radios.join(" ")));
    }
    match disabled.trim_end() {
        "" | "1" => Finding::good("modules", "no radios, and no more can be loaded"),
        _ => {
            let fix = "as root, when all devices are plugged in: sysctl kernel.modules_disabled=1";
            Finding::care("modules", "no radios, but more can be loaded", fix)
        }
    }
}

fn swap(swaps: &str) -> Finding {
    let used: Vec<&str> = swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next()).collect();
    if used.is_empty() {
        return Finding::good("swap", "none");
    }
    let fix = "as root: swapoff -a, and take it out of /etc/fstab";
    Finding::bad("swap", format!("what is in memory may be written to {}", used.join(", ")), fix)
}

fn sockets(open: &[(SocketAddr, bool)]) -> Finding {
    if open.is_empty() {
        return Finding::good("sockets", "none listens");
    }
    let list: Vec<String> =
        open.iter().map(|(at, is_tcp)| format!("{at}/{}", if *is_tcp { "tcp" } else { "udp" })).collect();
    let fix = "as root, see whose they are, and end it: ss -tulnp";
    Finding::bad("sockets", format!("others could talk to {}", list.join(", ")), fix)
}

/// The sockets of a table that others may talk to.
fn listening(table: &str, is_tcp: bool) -> Vec<(SocketAddr, bool)> {
    // TCP_LISTEN; of UDP, a socket that is not connected has TCP_CLOSE.
    let wanted = if is_tcp { "0A" } else { "07" };
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (*fields.get(3)? == wanted).then_some(())?;
        let at = address(fields.get(1)?)?;
        (!at.ip().is_loopback()).then_some((at, is_tcp))
    };
    table.lines().skip(1).filter_map(read).collect()
}

/// An address as the kernel prints it: words in the order of this machine, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = ip.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let words: Vec<[u8; 4]> = words.map(|word| word.map(u32::to_ne_bytes)).collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        words => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0\n   \
                       1: 00000000:0016 00000000:0000 0A 0\n   2: 0200630A:8000 1400630A:0016 01 0\n";
    const TCP6: &str = "  sl  local_address remote_address st\n   \
                        0: 00000000000000000000000001000000:0050 0:0 0A 0\n   \
                        1: 000099FD000000000000000002000000:01BB 0:0 0A 0\n";

    #[test]
    fn only_those_count_that_others_reach() {
        if cfg!(target_endian = "big") {
            return;
        }
        let found =
            |table: &str, is_tcp| listening(table, is_tcp).iter().map(|(at, _)| at.to_string()).collect::<Vec<_>>();
        assert_eq!(found(TCP, true), ["0.0.0.0:22"]);
        assert_eq!(found(TCP6, true), ["[fd99::2]:443"]);
        assert_eq!(found(&TCP.replace("0A", "07"), false), ["0.0.0.0:22"]);
        assert!(found("header\nnonsense\n", true).is_empty());
        assert_eq!(sockets(&listening(TCP, true)).grade, Grade::Bad);
    }

    #[test]
    fn swap_and_radios_are_bad() {
        let header = "Filename Type Size Used Priority\n";
        assert_eq!(swap(header).grade, Grade::Good);
        assert!(swap(&format!("{header}/dev/sda2 partition 1 0 -2\n")).found.contains("/dev/sda2"));
        assert_eq!(modules("ext4 1 0 - Live 0\n", "1\n").grade, Grade::Good);
        assert_eq!(modules("ext4 1 0 - Live 0\n", "0\n").grade, Grade::Care);
        assert_eq!(modules("mac80211 1 0 - Live 0\n", "1\n").grade, Grade::Bad);
        assert_eq!(modules("", "").grade, Grade::Good, "a kernel without modules");
    }
}
