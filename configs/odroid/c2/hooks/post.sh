#!/bin/bash
# Wraps U-Boot into what the boot ROM accepts: u-boot.bin.sd.bin, which a disk image has around its partition table.
set -e
parts=$BINARIES_DIR/fip
mkdir -p "$parts"
(cd "$BINARIES_DIR/amlogic-boot-fip" && ./build-fip.sh odroid-c2 "$BINARIES_DIR/u-boot.bin" "$parts")
install -m 0644 "$parts/u-boot.bin.sd.bin" "$BINARIES_DIR/u-boot.bin.sd.bin"
