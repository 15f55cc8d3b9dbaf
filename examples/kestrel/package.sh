#!/bin/sh
# Makes the Debian package from what cargo has built.
set -eu
arch=$(dpkg --print-architecture)
root=package
mkdir -p "$root/DEBIAN" "$root/usr/bin" "$root/usr/share/man/man1"
cp target/release/kestrel "$root/usr/bin/"
gzip -9n <kestrel.1 >"$root/usr/share/man/man1/kestrel.1.gz"
cat >"$root/DEBIAN/control" <<CONTROL
Package: kestrel
Version: $RELEASE_VERSION
Architecture: $arch
Maintainer: The kestrel maintainers <maintainers@kestrel.example>
Depends: libc6
Section: utils
Priority: optional
Description: hover over a file and show what is written to it
 The example program of release, and small enough to be read in a minute.
CONTROL
dpkg-deb --build --root-owner-group "$root" "kestrel_${RELEASE_VERSION}_$arch.deb"
