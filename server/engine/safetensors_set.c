/* safetensors_set.c - the safetensors files of one model directory: one file, or shards named by an
 * index.
 *
 * Every file is opened once; header, digest and tensors are read through that descriptor, so a file
 * that is replaced later changes nothing and one that is cut gives an error. An index only says
 * where tensors are: each shard is checked like a file of its own, then every tensor must be where
 * the index says and every entry must have its tensor. */
#include "safetensors_set.h"

#include "guardian/file.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

struct set_file {
    const char *name; /* in the arena */
    char *path;       /* malloc'ed */
    int fd;
    uint64_t nbytes;
};

struct gd_safetensors {
    struct gd_arena arena;
    struct set_file *files;
    uint32_t n_files;
    struct gd_tensor_info *tensors; /* by file, then by position */
    size_t n_tensors;
    const struct gd_tensor_info **by_name;
};

/* One line of the index. */
struct placed {
    struct gd_str name;
    struct gd_str file;
};

static int str_cmp(struct gd_str a, struct gd_str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n > 0 ? memcmp(a.ptr, b.ptr, n) : 0;
    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

static int by_tensor_name(const void *x, const void *y)
{
    const struct gd_tensor_info *const *a = x, *const *b = y;
    return str_cmp((*a)->name, (*b)->name);
}

static int by_placed_file(const void *x, const void *y)
{
    return str_cmp(((const struct placed *)x)->file, ((const struct placed *)y)->file);
}

static int by_placed_name(const void *x, const void *y)
{
    return str_cmp(((const struct placed *)x)->name, ((const struct placed *)y)->name);
}

static int no_memory(struct gd_err *err)
{
    return gd_err_set(err, GD_ENOMEM, "no memory for the list of tensors");
}

/* Opens files[i] by its name and parses its header into *t, *n. */
static int open_file(struct gd_safetensors *s, const char *dir, uint32_t i,
                     struct gd_tensor_info **t, size_t *n, struct gd_err *err)
{
    struct set_file *f = &s->files[i];
    struct gd_str head = {NULL, 0};
    uint64_t length = 0;
    char first[8];
    f->path = gd_path_join(dir, f->name);
    if (f->path == NULL)
        return no_memory(err);
    int rc = gd_file_open_needed(f->path, &f->fd, &f->nbytes, err);
    if (rc != GD_OK)
        return rc;
    head.ptr = first;
    head.len = f->nbytes < sizeof first ? (size_t)f->nbytes : sizeof first;
    rc = gd_file_read_at(f->fd, f->path, 0, first, head.len, err);
    if (rc != GD_OK)
        return rc;
    rc = gd_safetensors_header_length(head, f->nbytes, &length, err);
    if (rc == GD_OK) {
        char *text = malloc(sizeof first + (size_t)length);
        if (text == NULL)
            return no_memory(err);
        head = (struct gd_str){text, sizeof first + (size_t)length};
        rc = gd_file_read_at(f->fd, f->path, 0, text, head.len, err);
        if (rc == GD_OK)
            rc = gd_safetensors_parse_header(&s->arena, head, f->nbytes, t, n, err);
        free(text);
        if (rc == GD_EIO)
            return rc; /* names the file already */
    }
    if (rc != GD_OK)
        gd_err_prefix(err, "%s", f->name);
    for (size_t k = 0; rc == GD_OK && k < *n; k++)
        (*t)[k].file = i;
    return rc;
}

static bool is_plain_name(struct gd_str f)
{
    if (f.len == 0 || f.len > GD_SAFETENSORS_NAME_BYTES_MAX || f.ptr[0] == '.')
        return false;
    return memchr(f.ptr, '/', f.len) == NULL && memchr(f.ptr, '\\', f.len) == NULL &&
           memchr(f.ptr, '\0', f.len) == NULL;
}

/* The index as an array, and its distinct file names as s->files. */
static int read_index(struct gd_safetensors *s, const struct gd_json *map, struct placed **out,
                      struct gd_err *err)
{
    size_t n = map->n_children, i = 0;
    struct placed *p = gd_arena_calloc(&s->arena, n, sizeof *p);
    s->files = gd_arena_calloc(&s->arena, GD_MODEL_SHARDS_MAX, sizeof *s->files);
    if (p == NULL || s->files == NULL)
        return no_memory(err);
    for (const struct gd_json *v = map->child; v != NULL; v = v->next) {
        if (!gd_json_is(v, GD_JSON_STRING) || !is_plain_name(v->str))
            return gd_err_set(err, GD_EMODEL,
                              "the file of tensor '%.*s' must be a plain file name, is %.*s",
                              gd_shown(v->key, 128), v->key.ptr, gd_shown(v->raw, 128), v->raw.ptr);
        p[i++] = (struct placed){v->key, v->str};
    }
    qsort(p, n, sizeof *p, by_placed_file);
    for (i = 0; i < n; i++) {
        if (i > 0 && gd_str_eq(p[i].file, p[i - 1].file))
            continue;
        struct gd_str name;
        if (s->n_files == GD_MODEL_SHARDS_MAX)
            return gd_err_set(err, GD_ELIMIT, "more than %d shards", GD_MODEL_SHARDS_MAX);
        if (gd_str_dup(&s->arena, p[i].file, &name) != GD_OK)
            return no_memory(err);
        s->files[s->n_files++] = (struct set_file){.name = name.ptr, .fd = -1};
    }
    qsort(p, n, sizeof *p, by_placed_name);
    *out = p;
    return GD_OK;
}

/* Each tensor of file i must be in the index, under that file. */
static int check_shard(const struct gd_safetensors *s, uint32_t i, const struct gd_tensor_info *t,
                       size_t n, const struct placed *p, size_t n_placed, struct gd_err *err)
{
    for (size_t k = 0; k < n; k++) {
        struct placed key = {t[k].name, {NULL, 0}};
        const struct placed *at = bsearch(&key, p, n_placed, sizeof *p, by_placed_name);
        if (at == NULL)
            return gd_err_set(err, GD_EMODEL, "tensor '%s' of shard '%s' is not in the index",
                              t[k].name.ptr, s->files[i].name);
        if (!gd_str_eqz(at->file, s->files[i].name))
            return gd_err_set(err, GD_EMODEL, "tensor '%s' is in shard '%s', the index says '%.*s'",
                              t[k].name.ptr, s->files[i].name, gd_shown(at->file, 128),
                              at->file.ptr);
    }
    return GD_OK;
}

/* After check_shard a count that differs means that the index names a tensor that no shard has. */
static int check_all_found(const struct gd_safetensors *s, const struct placed *p, size_t n,
                           struct gd_err *err)
{
    for (size_t i = 0; i < n; i++) {
        struct gd_tensor_info info = {.name = p[i].name};
        const struct gd_tensor_info *key = &info;
        if (bsearch(&key, s->by_name, s->n_tensors, sizeof *s->by_name, by_tensor_name) == NULL)
            return gd_err_set(
                err, GD_EMODEL, "the index names tensor '%.*s' in shard '%.*s', which lacks it",
                gd_shown(p[i].name, 128), p[i].name.ptr, gd_shown(p[i].file, 128), p[i].file.ptr);
    }
    return GD_OK;
}

static int sort_names(struct gd_safetensors *s, struct gd_err *err)
{
    s->by_name = gd_arena_calloc(&s->arena, s->n_tensors, sizeof *s->by_name);
    if (s->by_name == NULL)
        return no_memory(err);
    for (size_t i = 0; i < s->n_tensors; i++)
        s->by_name[i] = &s->tensors[i];
    if (s->n_tensors > 0)
        qsort(s->by_name, s->n_tensors, sizeof *s->by_name, by_tensor_name);
    return GD_OK;
}

static int open_shards(struct gd_safetensors *s, const char *dir, const struct gd_json *map,
                       struct gd_err *err)
{
    struct placed *placed = NULL;
    int rc = read_index(s, map, &placed, err);
    if (rc != GD_OK)
        return rc;
    s->tensors = gd_arena_calloc(&s->arena, map->n_children, sizeof *s->tensors);
    if (s->tensors == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < s->n_files; i++) {
        struct gd_tensor_info *t = NULL;
        size_t n = 0;
        rc = open_file(s, dir, i, &t, &n, err);
        if (rc == GD_OK)
            rc = check_shard(s, i, t, n, placed, map->n_children, err);
        if (rc != GD_OK)
            return rc;
        /* Each is a different line of the index, so they fit. */
        if (n > 0)
            memcpy(s->tensors + s->n_tensors, t, n * sizeof *t);
        s->n_tensors += n;
    }
    if ((rc = sort_names(s, err)) != GD_OK)
        return rc;
    return check_all_found(s, placed, map->n_children, err);
}

static int open_index(struct gd_safetensors *s, const char *dir, const char *path,
                      struct gd_err *err)
{
    char *text = NULL;
    size_t len = 0;
    const struct gd_json *root = NULL;
    int rc = gd_file_read(path, GD_SAFETENSORS_HEADER_BYTES_MAX, &text, &len, err);
    if (rc != GD_OK)
        return rc;
    rc = gd_safetensors_parse_json(&s->arena, (struct gd_str){text, len}, &root, err);
    if (rc == GD_OK) {
        const struct gd_json *map = gd_json_get(root, "weight_map");
        if (!gd_json_is(map, GD_JSON_OBJECT) || map->n_children == 0 ||
            map->n_children > GD_SAFETENSORS_TENSORS_MAX)
            rc = gd_err_set(err, GD_EMODEL, "'weight_map' must be an object of 1 to %d tensors",
                            GD_SAFETENSORS_TENSORS_MAX);
        else
            rc = open_shards(s, dir, map, err);
    }
    if (rc != GD_OK)
        gd_err_prefix(err, INDEX_NAME);
    free(text);
    return rc;
}

static int open_single(struct gd_safetensors *s, const char *dir, struct gd_err *err)
{
    s->files = gd_arena_calloc(&s->arena, 1, sizeof *s->files);
    if (s->files == NULL)
        return no_memory(err);
    s->n_files = 1;
    s->files[0] = (struct set_file){.name = SINGLE_NAME, .fd = -1};
    int rc = open_file(s, dir, 0, &s->tensors, &s->n_tensors, err);
    return rc == GD_OK ? sort_names(s, err) : rc;
}

int gd_safetensors_open(struct gd_safetensors **out, const char *dir, struct gd_err *err)
{
    struct gd_safetensors *s = calloc(1, sizeof *s);
    char *index = gd_path_join(dir, INDEX_NAME);
    char *single = gd_path_join(dir, SINGLE_NAME);
    int rc;
    if (s == NULL || index == NULL || single == NULL) {
        rc = no_memory(err);
        goto done;
    }
    gd_arena_init(&s->arena, GD_SAFETENSORS_ARENA_BYTES);
    if (access(single, F_OK) == 0)
        rc = open_single(s, dir, err);
    else if (access(index, F_OK) == 0)
        rc = open_index(s, dir, index, err);
    else
        rc = gd_err_set(err, GD_EMODEL, "'%s' has neither " SINGLE_NAME " nor " INDEX_NAME, dir);
done:
    free(index);
    free(single);
    if (rc != GD_OK) {
        gd_safetensors_close(s);
        s = NULL;
    }
    *out = s;
    return rc;
}

void gd_safetensors_close(struct gd_safetensors *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->n_files; i++) {
        if (s->files[i].fd >= 0)
            close(s->files[i].fd);
        free(s->files[i].path);
    }
    gd_arena_free(&s->arena);
    free(s);
}

size_t gd_safetensors_count(const struct gd_safetensors *s)
{
    return s->n_tensors;
}

const struct gd_tensor_info *gd_safetensors_at(const struct gd_safetensors *s, size_t i)
{
    return i < s->n_tensors ? &s->tensors[i] : NULL;
}

const struct gd_tensor_info *gd_safetensors_find(const struct gd_safetensors *s, const char *name)
{
    struct gd_tensor_info info = {.name = gd_str_from(name)};
    const struct gd_tensor_info *key = &info;
    if (s->n_tensors == 0)
        return NULL;
    const struct gd_tensor_info **at =
        bsearch(&key, s->by_name, s->n_tensors, sizeof *s->by_name, by_tensor_name);
    return at != NULL ? *at : NULL;
}

int gd_safetensors_read(struct gd_safetensors *s, const struct gd_tensor_info *info, void *dst,
                        struct gd_err *err)
{
    GD_ASSERT(info->file < s->n_files); /* GCOVR_EXCL_BR_LINE: only another set's info breaks it */
    const struct set_file *f = &s->files[info->file];
    if (info->nbytes > SIZE_MAX)
        return gd_err_set(err, GD_ELIMIT, "tensor '%s' is larger than memory", info->name.ptr);
    int rc = gd_file_read_at(f->fd, f->path, info->offset, dst, (size_t)info->nbytes, err);
    if (rc != GD_OK)
        gd_err_prefix(err, "tensor '%s'", info->name.ptr);
    return rc;
}

/* ---- digests ---- */

#define DIGEST_THREADS                                                                             \
    8 /* files that are hashed at one time: one thread does some GB in a second */

struct digesting {
    const struct gd_safetensors *s;
    struct gd_file_digest *d;
    _Atomic uint32_t next;
    pthread_mutex_t lock; /* of the rest */
    struct gd_digest_progress progress;
    int rc;
    struct gd_err *err;
};

struct one_digest {
    struct digesting *whole;
    uint64_t done;
};

static void one_progress(void *ctx, uint64_t done, uint64_t all)
{
    (void)all;
    struct one_digest *one = ctx;
    struct gd_digest_progress *p = &one->whole->progress;
    pthread_mutex_lock(&one->whole->lock);
    p->done += done - one->done;
    one->done = done;
    if (p->call != NULL)
        p->call(p->ctx, p->done, p->all);
    pthread_mutex_unlock(&one->whole->lock);
}

/* Files that nobody has begun, one after the other. */
static void *digest_files(void *arg)
{
    struct digesting *w = arg;
    uint32_t i;
    int rc = GD_OK;
    while (rc == GD_OK && (i = atomic_fetch_add(&w->next, 1)) < w->s->n_files) {
        const struct set_file *f = &w->s->files[i];
        struct one_digest one = {.whole = w};
        struct gd_digest_progress p = {.call = one_progress, .ctx = &one};
        struct gd_err why = {0};
        w->d[i].path = gd_str_from(f->name);
        w->d[i].nbytes = f->nbytes;
        rc = gd_file_sha256_fd(f->fd, f->path, f->nbytes, w->d[i].sha256, &p, &why);
        if (rc != GD_OK) {
            pthread_mutex_lock(&w->lock);
            if (w->rc == GD_OK && w->err != NULL)
                *w->err = why;
            w->rc = rc;
            pthread_mutex_unlock(&w->lock);
        }
    }
    return NULL;
}

int gd_safetensors_digest(struct gd_safetensors *s, const struct gd_file_digest **files, size_t *n,
                          void (*progress)(void *ctx, uint64_t done, uint64_t all), void *ctx,
                          struct gd_err *err)
{
    struct digesting w = {.s = s, .progress = {.call = progress, .ctx = ctx}, .err = err};
    pthread_t threads[DIGEST_THREADS - 1];
    uint32_t n_threads = 0; /* beside this one; that fewer could be started is no failure */
    w.d = gd_arena_calloc(&s->arena, s->n_files, sizeof *w.d);
    if (w.d == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < s->n_files; i++)
        w.progress.all += s->files[i].nbytes;
    pthread_mutex_init(&w.lock, NULL);
    const uint32_t all = s->n_files < DIGEST_THREADS ? s->n_files : DIGEST_THREADS;
    while (n_threads + 1 < all && pthread_create(&threads[n_threads], NULL, digest_files, &w) == 0)
        n_threads++;
    digest_files(&w);
    for (uint32_t i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&w.lock);
    *files = w.d;
    *n = s->n_files;
    return w.rc;
}
