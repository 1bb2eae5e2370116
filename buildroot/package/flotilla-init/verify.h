#ifndef FLOTILLA_VERIFY_H
#define FLOTILLA_VERIFY_H

/*
 * Reads the root and the modules of a slot whole and matches them with the SHA-256 in its description, or fails. Finds what
 * rotted since the agent verified it; whether the description was signed is for the agent to know.
 */
void verify_slot(const char *slot);

#endif
