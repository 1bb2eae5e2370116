/*
 * flotilla-container: the boot loader of a device that is a container or a WSL distribution. Starts a release in namespaces
 * of its own, counts its tries, ends a trial that nobody confirms, and starts the next one when its init asks to reboot.
 *
 *   flotilla-container DEVICE
 *
 *   DEVICE/boot      as on a boot partition: releases/SLOT/, select.0, select.1, trace
 *   DEVICE/persist   becomes /mnt/persist
 *
 * The release sees the slot in /proc/cmdline, as from any loader, and flotilla.persist=mounted. Its init is the first process
 * of a PID namespace, where reboot(2) ends the namespace: with SIGHUP to restart, with SIGINT to halt (pid_namespaces(7)).
 * Its hostname is its own; network, devices, users and control groups are the container's.
 *
 * Needs to mount: CAP_SYS_ADMIN, and loop devices (of Docker: --cap-add SYS_ADMIN --device /dev/loop-control
 * --device-cgroup-rule 'b 7:* rmw' --security-opt apparmor=unconfined).
 * SIGTERM, SIGINT, SIGPWR and SIGRTMIN+3 are passed on to the init, and nothing is started after it; a second one kills it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "record.h"
#include "root.h"
#include "trial.h"

#define OVERLAY_PERCENT 25
/* Keeps a slot that ends at once from spinning. */
#define PAUSE_SECONDS 1
/* systemd's request to power off a container. */
#define HALT_SIGNAL (SIGRTMIN + 3)

struct boot {
	char slot[17];
	int on_trial;
	long trial_seconds;
};

/* A number among the members of the outermost object, -1 when there is none. Text in quotes is passed over. */
static long long member(const char *json, const char *key)
{
	int depth = 0, in_text = 0;
	for (const char *at = json; *at != 0; at += 1) {
		if (in_text && *at == '\\' && at[1] != 0)
			at += 1;
		else if (*at == '"') {
			in_text = !in_text;
			if (in_text && depth == 1 && strncmp(at, key, strlen(key)) == 0)
				return atoll(at + strlen(key));
		} else if (!in_text)
			depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
	}
	return -1;
}

/* By which releases are ordered: the era, then the sequence; -1 when the description cannot be read. */
static long long sequence_of(const char *slot)
{
	char path[PATH_MAX + 64];
	static char text[1 << 20];
	snprintf(path, sizeof path, "%s/releases/%s/description.json", boot_directory, slot);
	if (read_file(path, text, sizeof text) < 0)
		return -1;
	long long era = member(text, "\"era\":"), seq = member(text, "\"seq\":");
	return era < 0 || seq < 0 ? -1 : (era << 32) + seq;
}

/* Of the releases that were proven here the newest. Returns 0, -1 when there is none. */
static int find_proven(char slot[17])
{
	char path[PATH_MAX + 300];
	struct dirent *entry;
	long long best = -2;
	snprintf(path, sizeof path, "%s/releases", boot_directory);
	DIR *releases = opendir(path);
	while (releases != NULL && (entry = readdir(releases)) != NULL) {
		snprintf(path, sizeof path, "%s/releases/%s/proven", boot_directory, entry->d_name);
		if (!is_hex(entry->d_name, 16, 1) || access(path, F_OK) != 0)
			continue;
		long long sequence = sequence_of(entry->d_name);
		if (sequence <= best)
			continue;
		best = sequence;
		memcpy(slot, entry->d_name, 17);
	}
	if (releases != NULL)
		closedir(releases);
	return best == -2 ? -1 : 0;
}

/* A boot of the slot on trial, with the time that its release may take. */
static struct boot trial_of(const char *slot)
{
	struct boot boot = { .on_trial = 1, .trial_seconds = trial_seconds_of(slot) };
	memcpy(boot.slot, slot, sizeof boot.slot);
	return boot;
}

/*
 * Which slot is next. The try is on the medium before it is taken, and what cannot be counted is not tried.
 * Returns 0, -1 when nothing may be started.
 */
static int choose(struct boot *boot)
{
	struct records records;
	*boot = (struct boot){ 0 };
	int found = read_records(&records, NULL);
	if (found != 0) {
		if (find_proven(boot->slot) != 0) {
			say("the boot records are damaged, and no release here was ever proven");
			return -1;
		}
		say("the boot records are damaged: %s, the newest that was proven, goes on", boot->slot);
		if (found > 0)
			begin_records(&records, boot->slot);
		close_records(&records);
		return 0;
	}
	memcpy(boot->slot, records.bytes + GOOD_AT, 16);
	int asked = is_asked(&records);
	if (asked)
		answer(&records);
	if (has_trial(&records)) {
		char trial[17];
		if (take_try(&records, trial) == 0)
			*boot = trial_of(trial);
	} else if (asked)
		write_record(&records);
	close_records(&records);
	return 0;
}

/* Whether the agent took the slot out of its trial. */
static int is_confirmed(const char *slot)
{
	struct records records;
	int confirmed = read_records(&records, NULL) == 0 && memcmp(records.bytes + GOOD_AT, slot, 16) == 0;
	close_records(&records);
	return confirmed;
}

/* Makes DEVICE a root of this process's own, in memory, with what is needed of the container's below it. */
static void enter_device(const char *device)
{
	char path[PATH_MAX + 8];
	mount_at(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	/* From here on below the tmpfs, where no path leads. */
	if (chdir(device) != 0)
		fail("enter %s: %s", device, strerror(errno));
	mount_at("flotilla", device, "tmpfs", MS_NOSUID, "mode=0755");
	snprintf(path, sizeof path, "%s/old", device);
	make_directory(path);
	if (syscall(SYS_pivot_root, device, path) != 0)
		fail("change the root to %s: %s", device, strerror(errno));
	make_places();
	make_directory("/persist");
	make_directory("/proc");
	mount_at("boot", BOOT, NULL, MS_BIND, NULL);
	mount_at("persist", "/persist", NULL, MS_BIND | MS_REC, NULL);
	make_directory("/dev");
	mount_at("/old/dev", "/dev", NULL, MS_BIND | MS_REC, NULL);
	make_directory("/sys");
	mount_at("/old/sys", "/sys", NULL, MS_BIND | MS_REC, NULL);
	if (chdir("/") != 0 || umount2("/old", MNT_DETACH) != 0)
		fail("leave the old root: %s", strerror(errno));
}

/* What the kernel of a machine would have been given. */
static void set_command_line(const struct boot *boot)
{
	FILE *file = fopen("/cmdline", "w");
	int length = file == NULL ? -1 : fprintf(file, "flotilla.slot=%s flotilla.persist=mounted", boot->slot);
	if (length > 0 && boot->on_trial)
		length = fprintf(file, " flotilla.trial=%ld", boot->trial_seconds);
	if (length < 0 || fputc('\n', file) == EOF || fclose(file) != 0)
		fail("write /cmdline: %s", strerror(errno));
	mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("/cmdline", "/proc/cmdline", NULL, MS_BIND, NULL);
}

/* The first process of the release's namespaces. */
static void __attribute__((noreturn)) boot_release(const struct boot *boot, const char *device)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_device(device);
	boot_directory = BOOT;
	set_command_line(boot);
	mount_root(boot->slot, OVERLAY_PERCENT);
	set_machine_id();
	make_directory(ROOT "/mnt");
	say("slot %s from %s", boot->slot, device);
	trace("system", "");
	move_into_root("/persist", ROOT "/mnt/persist");
	setenv("container", "flotilla", 0);
	start("/sbin/init");
}

static pid_t start_release(const struct boot *boot, const char *device)
{
	/* As fork(2), with namespaces: no memory is shared, so no stack is needed. */
	pid_t pid = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | SIGCHLD, NULL, NULL, NULL, 0);
	if (pid == 0)
		boot_release(boot, device);
	if (pid < 0)
		say("make namespaces: %s; CAP_SYS_ADMIN is needed", strerror(errno));
	return pid;
}

/* Ends the trial when its time is over and nobody confirmed it. */
static void end_trial(const struct boot *boot, pid_t init)
{
	char why[160];
	if (is_confirmed(boot->slot))
		return;
	snprintf(why, sizeof why, "the release was not confirmed within %ld s", boot->trial_seconds);
	say("%s; reset", why);
	trace("system", why);
	kill(init, SIGKILL);
}

/* Waits for the end of the release's init, passes signals on. Returns its status; `asked_to_end` when a signal said so. */
static int attend(const struct boot *boot, pid_t init, const sigset_t *signals, int *asked_to_end)
{
	int status, trial = boot->on_trial;
	struct timespec started;
	clock_gettime(CLOCK_MONOTONIC, &started);
	while (waitpid(init, &status, WNOHANG) == 0) {
		long left = trial ? boot->trial_seconds * 1000 - elapsed_ms(&started) : 60000;
		if (left < 0)
			left = 0;
		struct timespec wait = { .tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000 };
		int signal = sigtimedwait(signals, NULL, &wait);
		if (signal > 0 && signal != SIGCHLD) {
			kill(init, *asked_to_end ? SIGKILL : signal);
			*asked_to_end = 1;
		}
		if (trial && elapsed_ms(&started) >= boot->trial_seconds * 1000) {
			end_trial(boot, init);
			trial = 0;
		}
	}
	/* As the first process of a container it is the parent of what was left behind. */
	while (waitpid(-1, NULL, WNOHANG) > 0)
		continue;
	return status;
}

int main(int count, char **arguments)
{
	static char device[PATH_MAX], boot_path[PATH_MAX + 8];
	sigset_t signals;
	program = "flotilla-container";
	if (count != 2 || realpath(arguments[1], device) == NULL) {
		fprintf(stderr, "%s: usage: %s DEVICE, a directory with boot and persist%s%s\n", program, program,
			count == 2 ? ": " : "", count == 2 ? strerror(errno) : "");
		return 2;
	}
	snprintf(boot_path, sizeof boot_path, "%s/boot", device);
	boot_directory = boot_path;
	sigemptyset(&signals);
	for (const int *each = (const int[]){ SIGCHLD, SIGTERM, SIGINT, SIGPWR, HALT_SIGNAL, 0 }; *each != 0; each += 1)
		sigaddset(&signals, *each);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	for (int asked_to_end = 0; !asked_to_end;) {
		struct boot boot;
		if (choose(&boot) != 0)
			return 1;
		if (boot.on_trial) {
			begin_trace(NULL, boot.slot);
			trace("initramfs", "");
		}
		pid_t init = start_release(&boot, device);
		if (init < 0)
			return 1;
		say("its init is process %d here: nsenter --target %d --all", init, init);
		int status = attend(&boot, init, &signals, &asked_to_end);
		end_trace();
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) {
			say("%s halted", boot.slot);
			return 0;
		}
		if (WIFEXITED(status))
			say("the init of %s ended with %d", boot.slot, WEXITSTATUS(status));
		else if (WTERMSIG(status) != SIGHUP)
			say("the init of %s was ended: %s", boot.slot, strsignal(WTERMSIG(status)));
		if (!asked_to_end)
			sleep(PAUSE_SECONDS);
	}
	return 0;
}
