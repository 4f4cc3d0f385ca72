/* memory.h - how much memory this process may still take. Any thread. */
#ifndef GUARDIAN_MEMORY_H
#define GUARDIAN_MEMORY_H

#include <stdint.h>

/* Bytes: MemAvailable, or what the process's memory control groups leave when that is less;
 * UINT64_MAX when the system does not say. root is put before /proc and /sys ("" in the program). */
uint64_t gd_memory_available(const char *root);

#endif
