/* memory.c - how much memory a model may take: the system's MemAvailable, and the limits of the
 * control groups (version 2) that the process is in, from its own up to the root. Page cache counts
 * as free in both: it gives way. */
#include "guardian/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096
#define ROOT_BYTES 1024 /* of a path that is `root` and a fixed name */

/* The number after `key` at the start of a line; with an empty key, the number the file starts
 * with. */
static bool read_field(const char *path, const char *key, uint64_t *out)
{
    char line[256];
    bool found = false;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    size_t n = strlen(key);
    while (!found && fgets(line, sizeof line, f) != NULL)
        /* NOLINTNEXTLINE(cert-err34-c): a number of the kernel's, which fits */
        found = strncmp(line, key, n) == 0 && sscanf(line + n, " %" SCNu64, out) == 1;
    (void)fclose(f);
    return found;
}

static bool group_field(const char *root, const char *group, const char *file, const char *key,
                        uint64_t *out)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/%s", root, group, file);
    return n > 0 && (size_t)n < sizeof path && read_field(path, key, out);
}

/* What one group leaves; a group without a limit says "max", which is no number. */
static uint64_t group_left(const char *root, const char *group)
{
    uint64_t max, current = 0, cache = 0;
    if (!group_field(root, group, "memory.max", "", &max))
        return UINT64_MAX;
    if (group_field(root, group, "memory.current", "", &current))
        group_field(root, group, "memory.stat", "file ", &cache);
    uint64_t used = current > cache ? current - cache : 0;
    return max > used ? max - used : 0;
}

static uint64_t groups_left(const char *root)
{
    char path[ROOT_BYTES], line[PATH_BYTES];
    uint64_t least = UINT64_MAX;
    line[0] = '\0';
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return least;
    while (fgets(line, sizeof line, f) != NULL && strncmp(line, "0::", 3) != 0)
        line[0] = '\0';
    (void)fclose(f);
    if (line[0] == '\0')
        return least;
    char *group = line + 3;
    group[strcspn(group, "\n")] = '\0';
    for (;;) {
        uint64_t left = group_left(root, strcmp(group, "/") == 0 ? "" : group);
        least = left < least ? left : least;
        char *slash = strrchr(group, '/');
        if (slash == NULL || group[1] == '\0')
            return least;
        slash[slash == group ? 1 : 0] = '\0';
    }
}

uint64_t gd_memory_available(const char *root)
{
    char path[ROOT_BYTES];
    uint64_t kib = 0;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    uint64_t left = groups_left(root);
    if (read_field(path, "MemAvailable:", &kib) && kib < left / 1024)
        left = kib * 1024;
    return left;
}
