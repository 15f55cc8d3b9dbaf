#!/bin/sh
# Makes the Debian package of the terminal, target/release-terminal.deb, from
# what cargo has built.
set -eu
export LC_ALL=C
program=$PWD/target/release/release
work=target/deb
root=$work/root
share=$root/usr/share
doc=$share/doc/release-terminal
rm -rf "$work"
# dpkg's programs look for debian/control.
mkdir -p "$work/debian" "$root/DEBIAN" "$doc/examples" "$share/lintian/overrides"
cp packaging/control "$work/debian/"
cp packaging/lintian-overrides "$share/lintian/overrides/release-terminal"

install -D -m 755 "$program" "$root/usr/bin/release"
"$program" --quiet util man "$share/man/man1"
gzip -9n "$share"/man/man1/*
while read -r shell file; do
    mkdir -p "$share/${file%/*}"
    "$program" util completions "$shell" >"$share/$file"
done <<COMPLETIONS
bash bash-completion/completions/release
fish fish/vendor_completions.d/release.fish
zsh zsh/vendor-completions/_release
COMPLETIONS

cp README.md RELEASING.md SECURITY.md CHANGELOG.md "$doc/"
cp examples/policy.toml examples/terminal.toml examples/kestrel/release.toml "$doc/examples/"
# For the operators of mirrors, to whom it is carried.
install -D -m 755 scripts/mirror "$share/release-terminal/mirror"
# For root on the terminal.
install -D -m 755 scripts/terminal "$share/release-terminal/terminal"
mkdir "$share/release-terminal/firewall"
cp packaging/terminal/* "$share/release-terminal/firewall/"
# Debian's form of the licence: an indented text, with a dot for an empty line.
{ cat packaging/copyright && sed -n '/^Permission/,$ { s/^$/./; s/^/ /; p }' LICENSE-MIT; } >"$doc/copyright"
# What Debian sorts below a release begins with a tilde: 1.0.0~rc.1.
cat >"$work/debian/changelog" <<CHANGELOG
release-terminal ($(echo "$RELEASE_VERSION" | sed 's/-/~/')) stable; urgency=medium

  * Release $RELEASE_VERSION. CHANGELOG.md says what changed.

 -- $(sed -n 's/^Maintainer: //p' packaging/control)  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
gzip -9nc "$work/debian/changelog" >"$doc/changelog.gz"
# The notices that come with the crates must come with the program.
cargo metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" >"$work/metadata"
grep -o '"manifest_path":"[^"]*/Cargo.toml"' "$work/metadata" | sed 's/.*:"//; s/\/Cargo.toml"//' | sort -u |
    while read -r crate; do
        [ "$crate" != "$PWD" ] || continue
        find "$crate" -maxdepth 1 -type f \( -iname 'LICEN[CS]E*' -o -iname 'COPYING*' -o -iname 'NOTICE*' \) | sort |
            while read -r notice; do
                printf '\n=== %s\n\n' "${crate##*/}/${notice##*/}"
                cat "$notice"
            done
    done | gzip -9n >"$doc/third-party-licences.gz"

# Whatever the umask is.
find "$root" -type d -exec chmod 755 {} +
find "$root" -type f ! -path '*/bin/*' ! -name mirror ! -name terminal -exec chmod 644 {} +
(
    cd "$work"
    dpkg-shlibdeps -Tdebian/substvars root/usr/bin/release
    dpkg-gencontrol -prelease-terminal -Tdebian/substvars -Proot
    cd root
    find usr -type f | sort | xargs md5sum >DEBIAN/md5sums
)
dpkg-deb --root-owner-group --build "$root" target/release-terminal.deb
