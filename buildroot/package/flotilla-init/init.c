/*
 * flotilla-init: the first process of a device. Finds the boot partition, puts a release together, and starts its init.
 *
 *   /boot                       the boot partition, read-only
 *   /boot/machine-id            who this device is to systemd, 32 hexadecimal digits; may be missing
 *   /boot/releases/SLOT/        one immutable directory for each release
 *     rootfs.squashfs           the root, below a tmpfs
 *     modules.squashfs          /lib/modules; left out where the kernel has none
 *
 * Kernel command line:
 *   flotilla.slot=SLOT          16 hexadecimal digits; needed
 *   flotilla.boot=WHERE         LABEL=, PARTLABEL=, PARTUUID= or /dev/...; default LABEL=BOOT
 *   flotilla.wait=SECONDS       how long the partition is waited for; default 30
 *   flotilla.overlay=PERCENT    of memory that changes to the root may take; default 25
 *   flotilla.trial=SECONDS      on trial: reset unless the agent confirms it in time, and leave in /boot/trace how far it came;
 *                               default 0, not on trial. The Raspberry Pi's firmware says it in the device tree instead
 *   flotilla.select=1           the loader cannot count: look at the boot record, and start what is on trial with kexec
 *   flotilla.verify=1           match rootfs and modules with the release's description first
 *   flotilla.watchdog=SECONDS   arms /dev/watchdog0: who does not feed it in time is reset; default 0, not armed
 *   flotilla.init=PATH          default /sbin/init
 *
 * It never waits without a bound and never asks anybody: what cannot be started says why on the console and reboots, so
 * that the boot loader counts the try and falls back. Persistent data is not its business: a device whose persist partition
 * is broken still comes up, with network and SSH.
 *
 * Static and alone in the initramfs, but for /modules: kernel modules that are loaded in the order of their names.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "root.h"
#include "select.h"
#include "trial.h"
#include "verify.h"

#define LOOK_AGAIN_MS 100

struct settings {
	char slot[17];
	char boot[128];
	char init[128];
	long wait_seconds;
	long overlay_percent;
	long watchdog_seconds;
	long trial_seconds;
	long select;
	long verify;
	char device[512]; /* of the boot partition, once it is found */
};

static void set_text(char *field, size_t size, const char *name, const char *text)
{
	if (strlen(text) >= size)
		fail("%s... is longer than %zu characters", name, size - 1);
	strcpy(field, text);
}

static void read_settings(struct settings *settings)
{
	static char line[8192];
	char *word, *rest = line;
	*settings = (struct settings){ .boot = "LABEL=BOOT", .init = "/sbin/init", .wait_seconds = 30, .overlay_percent = 25 };
	if (read_file("/proc/cmdline", line, sizeof line) < 0)
		fail("read /proc/cmdline: %s", strerror(errno));
	while ((word = strsep(&rest, " \t\n")) != NULL) {
		char *value = strchr(word, '=');
		if (value == NULL || strncmp(word, "flotilla.", 9) != 0)
			continue;
		char name[64];
		snprintf(name, sizeof name, "%.*s", (int)(value + 1 - word), word);
		value += 1;
		if (strcmp(name, "flotilla.slot=") == 0)
			set_text(settings->slot, sizeof settings->slot, name, value);
		else if (strcmp(name, "flotilla.boot=") == 0)
			set_text(settings->boot, sizeof settings->boot, name, value);
		else if (strcmp(name, "flotilla.init=") == 0)
			set_text(settings->init, sizeof settings->init, name, value);
		else if (strcmp(name, "flotilla.wait=") == 0)
			set_number(&settings->wait_seconds, name, value, 1, 600);
		else if (strcmp(name, "flotilla.overlay=") == 0)
			set_number(&settings->overlay_percent, name, value, 1, 90);
		else if (strcmp(name, "flotilla.watchdog=") == 0)
			set_number(&settings->watchdog_seconds, name, value, 0, 3600);
		else if (strcmp(name, "flotilla.trial=") == 0)
			set_number(&settings->trial_seconds, name, value, 0, MAX_TRIAL_SECONDS);
		else if (strcmp(name, "flotilla.select=") == 0)
			set_number(&settings->select, name, value, 0, 1);
		else if (strcmp(name, "flotilla.verify=") == 0)
			set_number(&settings->verify, name, value, 0, 1);
		else
			say("%s is not known and ignored", name);
	}
	if (!is_hex(settings->slot, 16, 1))
		fail("flotilla.slot=%s is not 16 hexadecimal digits", settings->slot);
}

/* Loads /modules of the initramfs. One that does not load is said: whether it was needed shows soon enough. */
static void load_modules(void)
{
	struct dirent **names;
	int count = scandir("/modules", &names, NULL, alphasort);
	for (int n = 0; n < count; n += 1) {
		char path[512];
		if (names[n]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/modules/%s", names[n]->d_name);
		int file = open(path, O_RDONLY | O_CLOEXEC);
		if (file < 0 || (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST))
			say("load %s: %s", path, strerror(errno));
		if (file >= 0)
			close(file);
		unlink(path); /* it is memory */
	}
}

/*
 * Left open nowhere: without the magic close it goes on running until the release's systemd takes it over
 * (RuntimeWatchdogSec= of the layer flotilla/init).
 */
static void arm_watchdog(long seconds)
{
	int timeout = seconds;
	int device = open("/dev/watchdog0", O_WRONLY | O_CLOEXEC);
	if (device < 0) {
		say("arm /dev/watchdog0: %s", strerror(errno));
		return;
	}
	/* Some count to 16 s at most: they go on with what they have, and it is said. */
	if (ioctl(device, WDIOC_SETTIMEOUT, &timeout) != 0 && ioctl(device, WDIOC_GETTIMEOUT, &timeout) == 0)
		say("the watchdog cannot be set to %ld s; it is %d s", seconds, timeout);
	close(device);
}

/* The value of a line KEY=value of a partition's uevent file. */
static int uevent_says(const char *uevent, const char *key, const char *wanted)
{
	size_t length = strlen(key);
	for (const char *line = uevent; line != NULL; line = strchr(line, '\n')) {
		if (*line == '\n')
			line += 1;
		if (strncmp(line, key, length) == 0 && line[length] == '=')
			return strncasecmp(line + length + 1, wanted, strlen(wanted)) == 0 &&
			       strchr("\n", line[length + 1 + strlen(wanted)]) != NULL;
	}
	return 0;
}

/* The label of a file system as its type keeps it, padded with spaces or zeros. */
static int label_is(const uint8_t *label, size_t size, const char *wanted)
{
	size_t length = strlen(wanted);
	if (length > size || strncasecmp((const char *)label, wanted, length) != 0)
		return 0;
	for (size_t n = length; n < size; n += 1)
		if (label[n] != ' ' && label[n] != 0)
			return 0;
	return 1;
}

/* Whether a block device holds a FAT or ext file system of this name. */
static int has_label(const char *device, const char *wanted)
{
	uint8_t bytes[2048];
	int file = open(device, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	ssize_t length = pread(file, bytes, sizeof bytes, 0);
	close(file);
	if (length != sizeof bytes)
		return 0;
	if (bytes[1024 + 0x38] == 0x53 && bytes[1024 + 0x39] == 0xef)
		return label_is(bytes + 1024 + 0x78, 16, wanted);
	if (bytes[510] != 0x55 || bytes[511] != 0xaa)
		return 0;
	if (memcmp(bytes + 0x52, "FAT32", 5) == 0)
		return label_is(bytes + 0x47, 11, wanted);
	return memcmp(bytes + 0x36, "FAT", 3) == 0 && label_is(bytes + 0x2b, 11, wanted);
}

/* Whether a block device, by its name in /sys/class/block, is what `where` says. */
static int is_meant(const char *where, const char *name, const char *device)
{
	const char *wanted = strchr(where, '=') + 1;
	char path[512], uevent[4096];
	if (strncmp(where, "LABEL=", 6) == 0)
		return has_label(device, wanted);
	snprintf(path, sizeof path, "/sys/class/block/%s/uevent", name);
	if (read_file(path, uevent, sizeof uevent) < 0)
		return 0;
	if (strncmp(where, "PARTLABEL=", 10) == 0)
		return uevent_says(uevent, "PARTNAME", wanted);
	return strncmp(where, "PARTUUID=", 9) == 0 && uevent_says(uevent, "PARTUUID", wanted);
}

/* Mounts a device at BOOT when it has the slot. Returns whether it has; `why` says what else. */
static int mount_with_slot(const char *device, const char *slot, char *why, size_t size)
{
	static const char *const types[] = { "vfat", "ext4" };
	char path[256];
	int mounted = 0;
	for (size_t n = 0; n < sizeof types / sizeof *types && !mounted; n += 1)
		mounted = mount(device, BOOT, types[n], MS_RDONLY | MS_NOATIME | MS_NOSUID | MS_NODEV, NULL) == 0;
	if (!mounted) {
		snprintf(why, size, "mount %s: %s", device, strerror(errno));
		return 0;
	}
	snprintf(path, sizeof path, BOOT "/releases/%s/rootfs.squashfs", slot);
	if (access(path, F_OK) == 0)
		return 1;
	snprintf(why, size, "%s has no releases/%s/rootfs.squashfs", device, slot);
	umount(BOOT);
	return 0;
}

/* Tries every device that is meant: a stick may have the same label. Returns whether one has the slot. */
static int try_devices(struct settings *settings, char *why, size_t size)
{
	struct dirent *entry;
	int found = 0;
	char *device = settings->device;
	if (strchr(settings->boot, '=') == NULL) {
		strcpy(device, settings->boot);
		return access(device, F_OK) == 0 && mount_with_slot(device, settings->slot, why, size);
	}
	DIR *blocks = opendir("/sys/class/block");
	while (blocks != NULL && !found && (entry = readdir(blocks)) != NULL) {
		snprintf(device, sizeof settings->device, "/dev/%s", entry->d_name);
		found = entry->d_name[0] != '.' && is_meant(settings->boot, entry->d_name, device) &&
			mount_with_slot(device, settings->slot, why, size);
	}
	if (blocks != NULL)
		closedir(blocks);
	return found;
}

/* Disks on USB take seconds to appear; the partition that was found first may not be ours. */
static void mount_boot(struct settings *settings)
{
	struct timespec start;
	char why[512] = "no such partition";
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!try_devices(settings, why, sizeof why)) {
		if (elapsed_ms(&start) > settings->wait_seconds * 1000)
			fail("%s within %ld s: %s", settings->boot, settings->wait_seconds, why);
		usleep(LOOK_AGAIN_MS * 1000);
	}
}

/* The firmware of a Raspberry Pi says in the device tree whether this is a one-shot boot; how long it may take is in the slot. */
static void read_pi_trial(struct settings *settings)
{
	char bytes[4 + 1];
	if (read_file("/proc/device-tree/chosen/bootloader/tryboot", bytes, sizeof bytes) != 4 || bytes[3] != 1)
		return;
	settings->trial_seconds = trial_seconds_of(settings->slot);
}

int main(void)
{
	static const char *const directories[] = { "/dev", "/proc", "/sys" };
	struct settings settings;
	if (getpid() != 1) {
		fputs("flotilla-init: it is the first process or none\n", stderr);
		return 1;
	}
	for (size_t n = 0; n < sizeof directories / sizeof *directories; n += 1)
		make_directory(directories[n]);
	make_places();
	/* A kernel with DEVTMPFS_MOUNT does so only for a root that it mounts itself. */
	mount_at("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	read_settings(&settings);
	load_modules();
	if (settings.watchdog_seconds > 0)
		arm_watchdog(settings.watchdog_seconds);
	mount_boot(&settings);
	read_pi_trial(&settings);
	if (settings.select)
		select_slot(settings.device, settings.slot);
	if (settings.trial_seconds > 0) {
		begin_trace(settings.device, settings.slot);
		trace("initramfs", "");
	}
	if (settings.verify)
		verify_slot(settings.slot);
	mount_root(settings.slot, settings.overlay_percent);
	set_machine_id();
	say("slot %s from %s", settings.slot, settings.boot);
	if (settings.trial_seconds > 0) {
		trace("system", "");
		start_guard(settings.trial_seconds);
	}
	start(settings.init);
}
