#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

enum { VERSION_AT = 8, SEQ_AT = 12, TRIAL_AT = 32, TRIES_AT = 48, FAILED_AT = 49, ASKED_AT = 52, SEEN_AT = 56, CRC_AT = 508 };

static uint32_t get_number(const char *bytes)
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
	       get_number(record + CRC_AT) == crc32(record, CRC_AT);
}

int read_records(struct records *records, const char *device)
{
	char copies[2][SECTOR];
	int whole[2];
	records->sectors[0].device = records->sectors[1].device = -1;
	for (int n = 0; n < 2; n += 1) {
		char path[512];
		snprintf(path, sizeof path, "%s/select.%d", boot_directory, n);
		if (find_sector(&records->sectors[n], device, path) != 0)
			return -1;
		whole[n] = pread(records->sectors[n].device, copies[n], SECTOR, records->sectors[n].at) == SECTOR && is_whole(copies[n]);
	}
	records->newest = whole[1] && (!whole[0] || get_number(copies[1] + SEQ_AT) > get_number(copies[0] + SEQ_AT));
	memcpy(records->bytes, copies[records->newest], SECTOR);
	return whole[records->newest] ? 0 : 1;
}

void close_records(const struct records *records)
{
	for (int n = 0; n < 2; n += 1)
		if (records->sectors[n].device >= 0)
			close(records->sectors[n].device);
}

int write_record(struct records *records)
{
	put(records->bytes + SEQ_AT, get_number(records->bytes + SEQ_AT) + 1);
	put(records->bytes + CRC_AT, crc32(records->bytes, CRC_AT));
	if (write_sector(&records->sectors[1 - records->newest], records->bytes) != 0) {
		say("write /boot/select.%d: %s", 1 - records->newest, strerror(errno));
		return -1;
	}
	records->newest = 1 - records->newest;
	return 0;
}

int begin_records(struct records *records, const char *slot)
{
	memset(records->bytes, 0, SECTOR);
	memcpy(records->bytes, "FLOTBOOT", 8);
	records->bytes[VERSION_AT] = 1;
	memcpy(records->bytes + GOOD_AT, slot, 16);
	records->newest = 1;
	return write_record(records);
}

int has_trial(const struct records *records)
{
	return is_hex(records->bytes + TRIAL_AT, 16, 0) && (uint8_t)records->bytes[TRIES_AT] > 0;
}

int take_try(struct records *records, char slot[17])
{
	char *record = records->bytes;
	memcpy(slot, record + TRIAL_AT, 16);
	slot[16] = 0;
	record[TRIES_AT] -= 1;
	if (write_record(records) != 0)
		return -1;
	say("on trial: %s, %d tries left", slot, (uint8_t)record[TRIES_AT]);
	return 0;
}

int is_asked(const struct records *records)
{
	return get_number(records->bytes + ASKED_AT) != get_number(records->bytes + SEEN_AT);
}

void answer(struct records *records)
{
	memcpy(records->bytes + SEEN_AT, records->bytes + ASKED_AT, 4);
}

int give_up_trial(struct records *records)
{
	records->bytes[TRIES_AT] = 0;
	records->bytes[FAILED_AT] = 1;
	return write_record(records);
}
