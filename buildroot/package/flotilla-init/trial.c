#define _GNU_SOURCE
#include "trial.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "sector.h"

/* How long unwritten data may take to reach the disks before the reset. */
#define FLUSH_SECONDS 5

static struct sector traced = { .device = -1 };
static char traced_slot[17];

void begin_trace(const char *device, const char *slot)
{
	char path[512];
	snprintf(path, sizeof path, "%s/trace", boot_directory);
	if (find_sector(&traced, device, path) == 0)
		snprintf(traced_slot, sizeof traced_slot, "%s", slot);
}

void trace(const char *stage, const char *why)
{
	char bytes[SECTOR];
	if (traced.device < 0)
		return;
	memset(bytes, ' ', sizeof bytes);
	int length = snprintf(bytes, sizeof bytes - 1, "flotilla-trace 1\n%s\n%s\n%.420s\n", traced_slot, stage, why);
	bytes[length] = ' ';
	bytes[sizeof bytes - 1] = '\n';
	if (write_sector(&traced, bytes) != 0)
		say("write /boot/trace: %s", strerror(errno));
}

void end_trace(void)
{
	if (traced.device >= 0)
		close(traced.device);
	traced.device = -1;
}

static void __attribute__((noreturn)) guard(long seconds)
{
	char text[160];
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += seconds;
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		continue;
	snprintf(text, sizeof text, "the release was not confirmed within %ld s", seconds);
	fprintf(stderr, "flotilla-guard: %s; reset\n", text);
	trace("system", text);
	/* A disk that hangs must not keep the machine up. */
	if (fork() == 0) {
		sync();
		_exit(0);
	}
	sleep(FLUSH_SECONDS);
	reboot(RB_AUTOBOOT);
	_exit(1);
}

void start_guard(long seconds)
{
	char text[24];
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NAME, "flotilla-guard");
		guard(seconds);
	}
	/* Nobody else would end a trial that hangs. */
	if (pid < 0)
		fail("start the guard of the trial: %s", strerror(errno));
	snprintf(text, sizeof text, "%d", (int)pid);
	setenv("FLOTILLA_GUARD", text, 1);
}
