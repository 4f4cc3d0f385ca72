/* faults.h - calls that fail on demand: the Nth one, or all from the Nth on, on any thread.
 *
 * The linker sends the calls that calls.txt lists from the product's libraries, and from the test
 * itself, through wraps.c. Threads whose faults_spared is set are neither counted nor failed: what
 * the test does for itself. One plan at a time. */
#ifndef GUARDIAN_TESTS_FAULTS_H
#define GUARDIAN_TESTS_FAULTS_H

#include <stdbool.h>

enum faults_group {
    FAULTS_MEMORY = 1,
    FAULTS_ARENA = 2,
    FAULTS_APPEND = 4,
    FAULTS_FILE = 8,
    FAULTS_SOCKET = 16,
    FAULTS_SYSTEM = 32,
    FAULTS_LIBRARY = 64,
    FAULTS_ALL = 127,
};

enum faults_way {
    FAULTS_ERROR, /* no memory, EIO, ECONNRESET, EAGAIN */
    FAULTS_FULL,  /* of calls that can: ENOSPC, EMFILE */
    FAULTS_INTR,  /* of calls that can: EINTR, three times in a row at most */
    FAULTS_SHORT, /* of calls that can: one byte is moved */
};

struct faults_plan {
    unsigned groups;
    enum faults_way way;
    long nth;  /* from 1 */
    bool stay; /* all from the nth on */
};

struct faults_seen {
    long calls; /* that could have failed */
    long fired;
    char first[120]; /* the first that did: its name, and where it was called from, for addr2line */
};

extern _Thread_local bool faults_spared;

void faults_arm(const struct faults_plan *plan);
void faults_disarm(struct faults_seen *out);
/* Blocks that the product has taken and not given back. */
long faults_live(void);

/* For wraps.c: true when this call is to fail. ways: those that the call has, as bits. */
bool faults_hit(enum faults_group group, unsigned ways, const char *name, const void *from);
enum faults_way faults_way_now(void);
void faults_took(const void *p);
void faults_gave(const void *p);

#endif
