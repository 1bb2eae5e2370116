#define _GNU_SOURCE
#include "sector.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

/* Reads from the medium, not from memory. */
static int read_back(const struct sector *sector, char *bytes)
{
	posix_fadvise(sector->device, sector->at, SECTOR, POSIX_FADV_DONTNEED);
	return pread(sector->device, bytes, SECTOR, sector->at) == SECTOR ? 0 : -1;
}

/* A file system that no loader reads by itself is written as usual. */
static int find_in_file(struct sector *sector, const char *path)
{
	struct stat status;
	int file = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
	if (file < 0)
		return -1;
	if (fstat(file, &status) != 0 || status.st_size != SECTOR) {
		say("%s is not a file of %d bytes", path, SECTOR);
		close(file);
		return -1;
	}
	*sector = (struct sector){ .device = file, .at = 0 };
	return 0;
}

int find_sector(struct sector *sector, const char *device, const char *path)
{
	char from_file[SECTOR], from_device[SECTOR];
	int block = 0, block_bytes = 0;
	struct stat status;
	sector->device = -1;
	if (device == NULL)
		return find_in_file(sector, path);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return -1;
	if (fstat(file, &status) != 0 || status.st_size != SECTOR || ioctl(file, FIGETBSZ, &block_bytes) != 0 ||
	    ioctl(file, FIBMAP, &block) != 0 || block <= 0 || pread(file, from_file, SECTOR, 0) != SECTOR) {
		say("%s is not a file of %d bytes whose place is known", path, SECTOR);
		close(file);
		return -1;
	}
	/* What is in memory of the file would go on to be read, whatever is written below it. */
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	close(file);
	sector->at = (off_t)block * block_bytes;
	sector->device = open(device, O_RDWR | O_SYNC | O_CLOEXEC);
	if (sector->device < 0) {
		say("open %s to write: %s", device, strerror(errno));
		return -1;
	}
	/* Nothing is written where something else than this file was found. */
	if (read_back(sector, from_device) == 0 && memcmp(from_device, from_file, SECTOR) == 0)
		return 0;
	say("%s: its sector on %s has other bytes", path, device);
	close(sector->device);
	sector->device = -1;
	return -1;
}

int write_sector(const struct sector *sector, const char bytes[SECTOR])
{
	char back[SECTOR];
	if (sector->device < 0) {
		errno = EBADF;
		return -1;
	}
	if (pwrite(sector->device, bytes, SECTOR, sector->at) != SECTOR || fsync(sector->device) != 0)
		return -1;
	if (read_back(sector, back) != 0 || memcmp(back, bytes, SECTOR) != 0) {
		errno = EIO;
		return -1;
	}
	return 0;
}
