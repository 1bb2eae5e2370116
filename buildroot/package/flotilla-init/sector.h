/*
 * Overwrites a file of one sector on the boot partition in place, while that is mounted read-only. A FAT that is mounted
 * writable, even for a moment, is marked as dirty and may be damaged by a power cut; one sector that no metadata speaks of
 * is either the old or the new one.
 */
#ifndef FLOTILLA_SECTOR_H
#define FLOTILLA_SECTOR_H

#include <sys/types.h>

#define SECTOR 512

struct sector {
	int device; /* or the file; -1: there is none */
	off_t at;   /* bytes from the start of the device */
};

/*
 * Where a file of the boot partition lies; it must be one sector long. `device` is the partition, NULL to write through the
 * file itself. Returns 0, or -1; says why unless there is no such file.
 */
int find_sector(struct sector *sector, const char *device, const char *path);

/* Returns 0 when the bytes are on the medium, -1 with errno when they may not be. */
int write_sector(const struct sector *sector, const char bytes[SECTOR]);

#endif
