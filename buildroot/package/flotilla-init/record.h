/* The boot record in its two copies, 512 bytes each: protocol/spec/slots.md, "Boot records". */
#ifndef FLOTILLA_RECORD_H
#define FLOTILLA_RECORD_H

#include "sector.h"

/* Where a record has the good slot, 16 characters. */
#define GOOD_AT 16

struct records {
	struct sector sectors[2];
	char bytes[SECTOR]; /* of the copy that holds */
	int newest;         /* which that is */
};

/*
 * Reads `select.0` and `select.1` of the boot directory. `device` as for find_sector.
 * Returns 0; 1 when both are damaged, -1 when they cannot be read at all. Whatever it returns, `close_records` may follow.
 */
int read_records(struct records *records, const char *device);

void close_records(const struct records *records);

/* The older copy becomes the newer one. Returns 0 when it is on the medium. */
int write_record(struct records *records);

/* Replaces records that are lost: this slot is the good one, and what the agent asks will have to be asked again. */
int begin_records(struct records *records, const char *slot);

/* Whether there is a slot on trial that has tries left. */
int has_trial(const struct records *records);

/* Takes one of them, and copies its slot. Returns 0 when that is on the medium: not before may it be started. */
int take_try(struct records *records, char slot[17]);

/* Whether the agent asked for a sign that this loader can write, and has no answer. */
int is_asked(const struct records *records);

/* Puts the answer into the record, to be written with it. */
void answer(struct records *records);

/* The slot on trial cannot be loaded: takes its tries and notes it. */
int give_up_trial(struct records *records);

#endif
