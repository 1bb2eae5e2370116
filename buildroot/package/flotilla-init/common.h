/* What all of flotilla-init uses. */
#ifndef FLOTILLA_COMMON_H
#define FLOTILLA_COMMON_H

#include <stddef.h>
#include <sys/types.h>
#include <time.h>

/* Where the boot partition is mounted before the new root takes over. */
#define BOOT "/flotilla/boot"

/* A release's deadline, a day at most, and what the board needs to start, an hour at most: protocol/spec/release.md, slots.md. */
#define MAX_TRIAL_SECONDS (86400 + 3600)
#define DEFAULT_TRIAL_SECONDS 600

/* Who says something. */
extern const char *program;
/* Where the boot records and the trace are: BOOT, but for who stands outside. */
extern const char *boot_directory;

void __attribute__((format(printf, 1, 2))) say(const char *format, ...);

/* Says why, leaves it for the agent, and as the first process reboots, so that the boot loader can try something else. */
void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);

/* Reads at most size - 1 bytes and ends them with a zero. Returns their number, -1 when the file cannot be read. */
ssize_t read_file(const char *path, char *bytes, size_t size);

/* Reads loader.env of a slot, at most size - 1 bytes. Returns as read_file. */
ssize_t read_loader_file(const char *slot, char *text, size_t size);

/* The value of a line KEY=value of loader.env; `key` has the equals sign. Returns NULL when there is none. */
char *value_of(const char *text, const char *key);

/* How long a trial of a slot may take: fl_wait of its loader.env, ten minutes when that is lost. */
long trial_seconds_of(const char *slot);

/* A number from..to; anything else leaves the default, and is said. */
void set_number(long *number, const char *name, const char *text, long from, long to);

/* Whether the text is `length` hexadecimal digits, and nothing else when `whole`. */
int is_hex(const char *text, size_t length, int whole);

long elapsed_ms(const struct timespec *since);

#endif
