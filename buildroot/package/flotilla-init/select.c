#define _GNU_SOURCE
#include "select.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common.h"
#include "record.h"

static int open_of_slot(const char *slot, const char *name)
{
	char path[256];
	snprintf(path, sizeof path, BOOT "/releases/%s/%s", slot, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Puts the kernel of a slot in place; reboot(RB_KEXEC) starts it. Returns 0, or -1 with what is wrong. */
static int load_kernel(const char *slot, int on_trial, const char **wrong)
{
	char text[4096], arguments[2048];
	*wrong = "loader.env";
	if (read_loader_file(slot, text, sizeof text) < 0)
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

void select_slot(const char *device, const char *running)
{
	struct records records;
	char slot[17];
	const char *wrong;
	int found = read_records(&records, device);
	if (found < 0)
		return;
	if (found > 0) {
		say("both boot records are damaged: %s goes on", running);
		begin_records(&records, running);
		return;
	}
	/* The answer says that counting and starting both work, so both are tried. */
	int asked = is_asked(&records);
	if (asked && load_kernel(running, 0, &wrong) != 0) {
		say("no trial can be started: %s: %s", wrong, strerror(errno));
		asked = 0;
	}
	if (asked)
		answer(&records);
	if (!has_trial(&records)) {
		if (asked)
			write_record(&records);
		return;
	}
	if (take_try(&records, slot) != 0)
		return;
	if (load_kernel(slot, 1, &wrong) == 0)
		reboot(LINUX_REBOOT_CMD_KEXEC);
	say("%s cannot be started: %s: %s", slot, wrong, strerror(errno));
	give_up_trial(&records);
}
