/* ring.h - doubly linked lists whose nodes are numbers, so that all links stand in one array made at
 * start. A list is a ring through a head node of its own; nothing can fail. Internal to
 * server/engine. */
#ifndef GUARDIAN_ENGINE_RING_H
#define GUARDIAN_ENGINE_RING_H

#include <stdint.h>

struct gd_link {
    uint32_t prev, next;
};

/* n becomes a list without members; also used for nodes that are in no list. */
static inline void gd_ring_init(struct gd_link *l, uint32_t n)
{
    l[n] = (struct gd_link){n, n};
}

/* n, which is in no list, becomes the first behind head. */
static inline void gd_ring_push(struct gd_link *l, uint32_t head, uint32_t n)
{
    l[n] = (struct gd_link){head, l[head].next};
    l[l[n].next].prev = n;
    l[head].next = n;
}

/* n leaves its list; it may be in none. */
static inline void gd_ring_remove(struct gd_link *l, uint32_t n)
{
    l[l[n].prev].next = l[n].next;
    l[l[n].next].prev = l[n].prev;
    gd_ring_init(l, n);
}

/* SplitMix64's last step: every bit of the result depends on every bit of x. */
static inline uint64_t gd_ring_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* The power of two that is n or the next above it; n is at most 2^31. */
static inline uint32_t gd_ring_buckets(uint32_t n)
{
    uint32_t b = 1;
    while (b < n)
        b *= 2;
    return b;
}

#endif
