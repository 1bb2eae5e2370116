/* Puts the root of a release together, below ROOT, and starts its init. What fails ends the boot (`fail`). */
#ifndef FLOTILLA_ROOT_H
#define FLOTILLA_ROOT_H

/* Where the new root is mounted before it takes over. */
#define ROOT "/flotilla/root"

void make_directory(const char *path);
void mount_at(const char *what, const char *where, const char *type, unsigned long flags, const char *options);

/* Makes the directories below /flotilla. */
void make_places(void);

/*
 * Mounts rootfs.squashfs of the slot below a tmpfs of so much of the memory, and its modules.squashfs, if it has one, at
 * /lib/modules.
 */
void mount_root(const char *slot, long overlay_percent);

/* /boot/machine-id becomes /etc/machine-id of the new root. */
void set_machine_id(void);

void move_into_root(const char *from, const char *to);

/* Makes ROOT the root, with BOOT, /dev, /proc and /sys in it, and becomes its init. */
void __attribute__((noreturn)) start(const char *init);

#endif
