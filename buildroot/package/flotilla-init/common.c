#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "trial.h"

#define REBOOT_AFTER_SECONDS 5

const char *program = "flotilla-init";
const char *boot_directory = BOOT;

void say(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	fprintf(stderr, "%s: ", program);
	vfprintf(stderr, format, list);
	fputc('\n', stderr);
	va_end(list);
}

void fail(const char *format, ...)
{
	char why[400];
	va_list list;
	va_start(list, format);
	vsnprintf(why, sizeof why, format, list);
	va_end(list);
	fprintf(stderr, "%s: cannot start: %s; reboot in %d s\n", program, why, REBOOT_AFTER_SECONDS);
	trace("initramfs", why);
	sleep(REBOOT_AFTER_SECONDS);
	if (getpid() == 1)
		reboot(RB_AUTOBOOT);
	/* The kernel panics when init ends, and reboots by panic=. */
	_exit(1);
}

ssize_t read_file(const char *path, char *bytes, size_t size)
{
	ssize_t length, done = 0;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return -1;
	while ((length = read(file, bytes + done, size - 1 - done)) > 0)
		done += length;
	close(file);
	bytes[done] = 0;
	return length < 0 ? -1 : done;
}

ssize_t read_loader_file(const char *slot, char *text, size_t size)
{
	char path[PATH_MAX + 64];
	snprintf(path, sizeof path, "%s/releases/%s/loader.env", boot_directory, slot);
	return read_file(path, text, size);
}

void set_number(long *number, const char *name, const char *text, long from, long to)
{
	char *end;
	long value = strtol(text, &end, 10);
	if (*text == 0 || *end != 0 || value < from || value > to)
		say("%s%s is not a number from %ld to %ld; it is %ld", name, text, from, to, *number);
	else
		*number = value;
}

int is_hex(const char *text, size_t length, int whole)
{
	return strspn(text, "0123456789abcdef") >= length && (!whole || text[length] == 0);
}

long elapsed_ms(const struct timespec *since)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000;
}

char *value_of(const char *text, const char *key)
{
	const char *line = strstr(text, key);
	return line == NULL ? NULL : strndup(line + strlen(key), strcspn(line + strlen(key), "\n"));
}

long trial_seconds_of(const char *slot)
{
	char text[4096];
	long seconds = DEFAULT_TRIAL_SECONDS;
	char *wait = read_loader_file(slot, text, sizeof text) < 0 ? NULL : value_of(text, "fl_wait=");
	if (wait != NULL)
		set_number(&seconds, "fl_wait=", wait, 1, MAX_TRIAL_SECONDS);
	free(wait);
	return seconds;
}
