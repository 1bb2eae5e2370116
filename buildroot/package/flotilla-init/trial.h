/* What a boot on trial leaves behind, and what ends it when nobody confirms it. */
#ifndef FLOTILLA_TRIAL_H
#define FLOTILLA_TRIAL_H

/*
 * From now on `trace` writes into /boot/trace how far the slot came (protocol/spec/slots.md, "Trace"). Without such a file
 * nothing is traced. `device` as for find_sector.
 */
void begin_trace(const char *device, const char *slot);

/* Overwrites what was traced. Does nothing in a boot that is not on trial. */
void trace(const char *stage, const char *why);

/* Nothing is traced any more. */
void end_trace(void);

/*
 * Starts a process that resets the machine after so many seconds, unless the agent ends it: its id is in the environment of
 * init as FLOTILLA_GUARD. It is there when user space hangs and something still feeds the watchdog.
 */
void start_guard(long seconds);

#endif
