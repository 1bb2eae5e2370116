#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common.h"

#define LOWER "/flotilla/lower"
#define CHANGES "/flotilla/changes"

void make_directory(const char *path)
{
	if (mkdir(path, 0755) != 0 && errno != EEXIST)
		fail("make %s: %s", path, strerror(errno));
}

void mount_at(const char *what, const char *where, const char *type, unsigned long flags, const char *options)
{
	if (mount(what, where, type, flags, options) != 0)
		fail("mount %s on %s: %s", what, where, strerror(errno));
}

void make_places(void)
{
	static const char *const places[] = { "/flotilla", BOOT, LOWER, CHANGES, ROOT };
	for (size_t n = 0; n < sizeof places / sizeof *places; n += 1)
		make_directory(places[n]);
}

/* Mounts a squashfs that lies in a file. The loop device goes when it is unmounted. */
static void mount_image(const char *path, const char *where)
{
	struct loop_config config = { .info = { .lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR } };
	char name[32];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail("open %s: %s", path, strerror(errno));
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	if (number < 0)
		fail("get a loop device for %s: %s", path, strerror(errno));
	snprintf(name, sizeof name, "/dev/loop%d", number);
	/* A container's /dev has nobody who makes it. */
	if (access(name, F_OK) != 0 && mknod(name, S_IFBLK | 0600, makedev(LOOP_MAJOR, number)) != 0)
		say("make %s: %s", name, strerror(errno));
	int loop = open(name, O_RDONLY | O_CLOEXEC);
	config.fd = file;
	if (loop < 0)
		fail("open %s for %s: %s", name, path, strerror(errno));
	if (ioctl(loop, LOOP_CONFIGURE, &config) != 0) {
		/* Linux before 5.8 */
		struct loop_info64 info = config.info;
		if (ioctl(loop, LOOP_SET_FD, file) != 0 || ioctl(loop, LOOP_SET_STATUS64, &info) != 0)
			fail("attach %s to %s: %s", path, name, strerror(errno));
	}
	mount_at(name, where, "squashfs", MS_RDONLY | MS_NOATIME, NULL);
	close(loop);
	close(control);
	close(file);
}

void mount_root(const char *slot, long overlay_percent)
{
	char path[256], options[64];
	snprintf(path, sizeof path, BOOT "/releases/%s/rootfs.squashfs", slot);
	mount_image(path, LOWER);
	snprintf(options, sizeof options, "mode=0755,size=%ld%%", overlay_percent);
	mount_at("changes", CHANGES, "tmpfs", MS_NOATIME, options);
	make_directory(CHANGES "/upper");
	make_directory(CHANGES "/work");
	mount_at("root", ROOT, "overlay", MS_NOATIME,
		 "lowerdir=" LOWER ",upperdir=" CHANGES "/upper,workdir=" CHANGES "/work");
	snprintf(path, sizeof path, BOOT "/releases/%s/modules.squashfs", slot);
	if (access(path, F_OK) != 0)
		return;
	/* Where /lib is /usr/lib, as with systemd, this is /usr/lib/modules. */
	make_directory(ROOT "/lib");
	make_directory(ROOT "/lib/modules");
	mount_image(path, ROOT "/lib/modules");
}

/*
 * The root is as new at every boot: without this each boot would be another machine, with another DHCP lease and a journal
 * of its own.
 */
void set_machine_id(void)
{
	char id[64];
	ssize_t length = read_file(BOOT "/machine-id", id, sizeof id);
	if (length < 0)
		return;
	if (length < 32 || !is_hex(id, 32, 0) || is_hex(id, 33, 0)) {
		say("/boot/machine-id is not 32 hexadecimal digits and ignored");
		return;
	}
	id[32] = '\n';
	make_directory(ROOT "/etc");
	int file = open(ROOT "/etc/machine-id", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
	if (file < 0 || write(file, id, 33) != 33)
		say("write /etc/machine-id: %s", strerror(errno));
	if (file >= 0)
		close(file);
}

void move_into_root(const char *from, const char *to)
{
	make_directory(to);
	mount_at(from, to, NULL, MS_MOVE, NULL);
}

/* switch_root of util-linux, without what it keeps for others. */
void start(const char *init)
{
	char *const arguments[] = { (char *)init, NULL };
	move_into_root(BOOT, ROOT "/boot");
	move_into_root("/dev", ROOT "/dev");
	move_into_root("/proc", ROOT "/proc");
	move_into_root("/sys", ROOT "/sys");
	if (chdir(ROOT) != 0)
		fail("enter the new root: %s", strerror(errno));
	unlink("/init"); /* half a megabyte of memory */
	mount_at(".", "/", NULL, MS_MOVE, NULL);
	if (chroot(".") != 0 || chdir("/") != 0)
		fail("change the root: %s", strerror(errno));
	execv(init, arguments);
	fail("start %s: %s", init, strerror(errno));
}
