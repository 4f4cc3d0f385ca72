/* socket.h - the sockets of the HTTP library: how many there are, which one this thread serves, and
 * what is in the buffer that it reads into.
 *
 * The library calls functions of the C library by name; a program that links socket.c gives it others
 * instead. With them come what it has no option for: a bound on connections, the descriptor of a
 * request (so that a deadline can shut it), the head of a request as it came, with nothing behind
 * it, and threads with a stack of GD_HTTP_STACK_BYTES in place of its 100 KB. Descriptors that did
 * not come out of accept are passed through untouched. The alternative, a patched build of the
 * library, would have to be built, signed and updated by us on every distribution; this is one file.
 *
 * One set of sockets in a process. Any thread, except where said otherwise. */
#ifndef GUARDIAN_SOCKET_H
#define GUARDIAN_SOCKET_H

#include "guardian/limits.h"
#include "guardian/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Before the library listens: raises the soft limit on descriptors as far as is needed and allowed.
 * How many connections can be open at one time: at most n, fewer where the hard limit is lower. */
uint32_t gd_sockets_init(uint32_t n);

uint32_t gd_sockets_open(void);    /* connections now */
uint32_t gd_sockets_max(void);     /* as gd_sockets_init said */
uint64_t gd_sockets_refused(void); /* connections answered with 503 since the start */

/* Of the calling thread of the library: the descriptor that it reads from (-1: none), where the buffer
 * begins into which it reads heads (NULL: it has read nothing yet), and whether the head that it has
 * read last came whole and was gd_gate_head_is_plain. */
int gd_socket_current(void);
const char *gd_socket_buffer(void);
bool gd_socket_head_is_plain(void);

/* From now on new connections are answered with 503, and those that are open get no further byte of
 * their clients: idle ones end, the others after their answer. gd_sockets_init takes it back. */
void gd_sockets_stop(void);

/* From now on connections are refused by the kernel. The library's thread that waits for them wakes
 * at once and does not wait any more: to be followed by stopping the library. */
void gd_sockets_unlisten(void);

/* Closes refused connections whose clients have read their answer, or have had a second for it. To be
 * called now and then by one thread. */
void gd_sockets_sweep(int64_t now_ns);

#endif
