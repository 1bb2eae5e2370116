#ifndef FLOTILLA_SELECT_H
#define FLOTILLA_SELECT_H

/*
 * Does what a loader does that can count (protocol/spec/slots.md, "Boot records" and "extlinux"): subtracts a try from the boot
 * record and starts the slot on trial, by kexec. Returns when the slot that runs is the one to start.
 */
void select_slot(const char *device, const char *running);

#endif
