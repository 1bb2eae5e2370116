#!/bin/bash
# The first stage of GRUB for a BIOS, which Buildroot leaves where it was built; a disk image has it in its first sector.
set -e
stage=$(find "$BUILD_DIR" -path '*/build-i386-pc/grub-core/boot.img' | head -n 1)
if [ -z "$stage" ]; then
	echo "pcengines/apu2: GRUB left no boot.img for i386-pc" >&2
	exit 1
fi
install -D -m 0644 "$stage" "$BINARIES_DIR/boot.img"
