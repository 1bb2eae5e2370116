#define _GNU_SOURCE
#include "select.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"
#include "sector.h"

/* A boot record: 512 bytes, see protocol/spec/slots.md. */
enum { VERSION_AT = 8, SEQ_AT = 12, GOOD_AT = 16, TRIAL_AT = 32, TRIES_AT = 48, FAILED_AT = 49, ASKED_AT = 52, SEEN_AT = 56, CRC_AT = 508 };

static uint32_t get(const char *bytes)
{
	const uint8_t *b = (const uint8_t *)bytes;
	return b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
}

static void put(char *bytes, uint32_t value)
{
	for (int n = 0; n < 4; n += 1)
		bytes[n] = value >> (8 * n);
}

/* IEEE 802.3, as zlib's. */
static uint32_t crc32(const char *bytes, size_t length)
{
	uint32_t crc = ~0u;
	for (size_t n = 0; n < length; n += 1) {
		crc ^= (uint8_t)bytes[n];
		for (int bit = 0; bit < 8; bit += 1)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

static int is_whole(const char *record)
{
	return memcmp(record, "FLOTBOOT", 8) == 0 && record[VERSION_AT] == 1 && is_hex(record + GOOD_AT, 16, 0) &&
	       get(record + CRC_AT) == crc32(record, CRC_AT);
}

/* The two copies, and which of them holds. */
struct records {
	struct sector sectors[2];
	char bytes[SECTOR];
	int newest;
};

static int read_records(struct records *records, const char *device)
{
	char copies[2][SECTOR];
	int whole[2];
	for (int n = 0; n < 2; n += 1) {
		char path[64];
		snprintf(path, sizeof path, BOOT "/select.%d", n);
		if (find_sector(&records->sectors[n], device, path) != 0)
			return -1;
		whole[n] = pread(records->sectors[n].device, copies[n], SECTOR, records->sectors[n].at) == SECTOR && is_whole(copies[n]);
	}
	records->newest = whole[1] && (!whole[0] || get(copies[1] + SEQ_AT) > get(copies[0] + SEQ_AT));
	memcpy(records->bytes, copies[records->newest], SECTOR);
	return whole[records->newest] ? 0 : 1;
}

/* The older copy becomes the newer one. Returns 0 when it is on the medium. */
static int write_record(struct records *records)
{
	put(records->bytes + SEQ_AT, get(records->bytes + SEQ_AT) + 1);
	put(records->bytes + CRC_AT, crc32(records->bytes, CRC_AT));
	if (write_sector(&records->sectors[1 - records->newest], records->bytes) != 0) {
		say("write /boot/select.%d: %s", 1 - records->newest, strerror(errno));
		return -1;
	}
	records->newest = 1 - records->newest;
	return 0;
}

/* The value of a line KEY=value of loader.env. Returns NULL when there is none. */
static char *value_of(const char *text, const char *key)
{
	const char *line = strstr(text, key);
	return line == NULL ? NULL : strndup(line + strlen(key), strcspn(line + strlen(key), "\n"));
}

static int open_of_slot(const char *slot, const char *name)
{
	char path[256];
	snprintf(path, sizeof path, BOOT "/releases/%s/%s", slot, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Puts the kernel of a slot in place; reboot(RB_KEXEC) starts it. Returns 0, or -1 with what is wrong. */
static int load_kernel(const char *slot, int on_trial, const char **wrong)
{
	char path[256], text[4096], arguments[2048];
	snprintf(path, sizeof path, BOOT "/releases/%s/loader.env", slot);
	*wrong = "loader.env";
	if (read_file(path, text, sizeof text) < 0)
		return -1;
	char *kernel_name = value_of(text, "fl_kernel="), *initrd_name = value_of(text, "fl_initrd=");
	char *line = value_of(text, "fl_args="), *wait = value_of(text, "fl_wait=");
	if (kernel_name == NULL || initrd_name == NULL || line == NULL || wait == NULL)
		return -1;
	snprintf(arguments, sizeof arguments, "%s flotilla.slot=%s%s%s", line, slot, on_trial ? " flotilla.trial=" : "",
		 on_trial ? wait : "");
	*wrong = "kernel";
	int kernel = open_of_slot(slot, kernel_name), initrd = -1;
	if (kernel < 0)
		return -1;
	if (*initrd_name != 0 && (initrd = open_of_slot(slot, initrd_name)) < 0) {
		*wrong = "initramfs";
		close(kernel);
		return -1;
	}
	*wrong = "kexec_file_load";
	long loaded = syscall(SYS_kexec_file_load, kernel, initrd, strlen(arguments) + 1, arguments,
			      initrd < 0 ? KEXEC_FILE_NO_INITRAMFS : 0);
	close(kernel);
	if (initrd >= 0)
		close(initrd);
	return loaded == 0 ? 0 : -1;
}

/* All that was taken from the loader's place, to be asked for again. */
static void start_afresh(struct records *records, const char *running)
{
	say("both boot records are damaged: %s goes on", running);
	memset(records->bytes, 0, SECTOR);
	memcpy(records->bytes, "FLOTBOOT", 8);
	records->bytes[VERSION_AT] = 1;
	memcpy(records->bytes + GOOD_AT, running, 16);
	records->newest = 1;
	write_record(records);
}

void select_slot(const char *device, const char *running)
{
	struct records records;
	char slot[17] = "";
	const char *wrong;
	int found = read_records(&records, device);
	if (found < 0)
		return;
	if (found > 0) {
		start_afresh(&records, running);
		return;
	}
	char *record = records.bytes;
	int on_trial = is_hex(record + TRIAL_AT, 16, 0) && (uint8_t)record[TRIES_AT] > 0;
	/* The answer says that counting and starting both work, so both are tried. */
	int asked = get(record + ASKED_AT) != get(record + SEEN_AT);
	if (asked && load_kernel(running, 0, &wrong) != 0) {
		say("no trial can be started: %s: %s", wrong, strerror(errno));
		asked = 0;
	}
	if (asked)
		memcpy(record + SEEN_AT, record + ASKED_AT, 4);
	if (!on_trial) {
		if (asked)
			write_record(&records);
		return;
	}
	memcpy(slot, record + TRIAL_AT, 16);
	record[TRIES_AT] -= 1;
	if (write_record(&records) != 0)
		return;
	say("on trial: %s, %d tries left", slot, record[TRIES_AT]);
	if (load_kernel(slot, 1, &wrong) == 0)
		reboot(LINUX_REBOOT_CMD_KEXEC);
	say("%s cannot be started: %s: %s", slot, wrong, strerror(errno));
	record[TRIES_AT] = 0;
	record[FAILED_AT] = 1;
	write_record(&records);
}
