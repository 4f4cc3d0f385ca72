/* jsonget.c - reading values out of parsed JSON: look-ups, exact numbers, typed members with
 * messages. See guardian/json.h. */
#include "guardian/json.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <string.h>

#define NUMBER_BYTES_LOCAL 128 /* literals up to here are converted without malloc */
#define SHOWN_BYTES_MAX 32     /* of a number in a message */

const struct gd_json *gd_json_get(const struct gd_json *obj, const char *key)
{
    if (!gd_json_is(obj, GD_JSON_OBJECT))
        return NULL;
    const struct gd_str name = gd_str_from(key);
    const struct gd_json *found = NULL;
    for (const struct gd_json *m = obj->child; m; m = m->next) {
        if (gd_str_eq(m->key, name))
            found = m;
    }
    return found;
}

bool gd_json_is(const struct gd_json *v, enum gd_json_type t)
{
    return v && v->type == t;
}

bool gd_json_i64(const struct gd_json *v, int64_t *out)
{
    if (!gd_json_is(v, GD_JSON_NUMBER))
        return false;
    const bool negative = v->raw.ptr[0] == '-';
    int64_t n = 0; /* kept negative: that side has one more value */
    for (size_t i = negative; i < v->raw.len; i++) {
        const char c = v->raw.ptr[i];
        if (c < '0' || c > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_sub_overflow(n, c - '0', &n))
            return false;
    }
    if (!negative && n == INT64_MIN)
        return false;
    *out = negative ? n : -n;
    return true;
}

bool gd_json_f64(const struct gd_json *v, double *out)
{
    if (!gd_json_is(v, GD_JSON_NUMBER))
        return false;
    char local[NUMBER_BYTES_LOCAL];
    char *text = v->raw.len < sizeof local ? local : malloc(v->raw.len + 1);
    if (!text)
        return false;
    memcpy(text, v->raw.ptr, v->raw.len);
    text[v->raw.len] = '\0';
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const double d = c ? strtod_l(text, NULL, c) : (double)NAN;
    if (c)
        freelocale(c);
    if (text != local)
        free(text);
    if (!isfinite(d))
        return false;
    *out = d;
    return true;
}

const char *gd_json_type_name(const struct gd_json *v)
{
    static const char *const names[] = {
        [GD_JSON_NULL] = "null",        [GD_JSON_FALSE] = "a boolean", [GD_JSON_TRUE] = "a boolean",
        [GD_JSON_NUMBER] = "a number",  [GD_JSON_STRING] = "a string", [GD_JSON_ARRAY] = "an array",
        [GD_JSON_OBJECT] = "an object",
    };
    return v ? names[v->type] : "missing";
}

static bool absent(const struct gd_json *v)
{
    return !v || v->type == GD_JSON_NULL;
}

static int fail_type(struct gd_err *err, const char *where, const char *key, const char *wanted,
                     const struct gd_json *v)
{
    return gd_err_set(err, GD_EFIELD, "field '%s%s' must be %s, is %s", where, key, wanted,
                      gd_json_type_name(v));
}

static int fail_range(struct gd_err *err, const char *where, const char *key, const char *wanted,
                      const struct gd_json *v)
{
    const int shown = v->raw.len < SHOWN_BYTES_MAX ? (int)v->raw.len : SHOWN_BYTES_MAX;
    return gd_err_set(err, GD_EFIELD, "field '%s%s' must be %s, is %.*s%s", where, key, wanted,
                      shown, v->raw.ptr, v->raw.len > SHOWN_BYTES_MAX ? "..." : "");
}

int gd_json_want_str(const struct gd_json *obj, const char *where, const char *key, bool required,
                     struct gd_str *out, struct gd_err *err)
{
    const struct gd_json *v = gd_json_get(obj, key);
    if (absent(v) && !required)
        return GD_OK;
    if (!gd_json_is(v, GD_JSON_STRING))
        return fail_type(err, where, key, "a string", v);
    *out = v->str;
    return GD_OK;
}

int gd_json_want_f64(const struct gd_json *obj, const char *where, const char *key, double min,
                     double max, double *out, struct gd_err *err)
{
    const struct gd_json *v = gd_json_get(obj, key);
    char wanted[96];
    double d;
    if (absent(v))
        return GD_OK;
    (void)snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
    if (v->type != GD_JSON_NUMBER)
        return fail_type(err, where, key, wanted, v);
    if (!gd_json_f64(v, &d) || !(d >= min && d <= max))
        return fail_range(err, where, key, wanted, v);
    *out = d;
    return GD_OK;
}

int gd_json_want_i64(const struct gd_json *obj, const char *where, const char *key, int64_t min,
                     int64_t max, int64_t *out, struct gd_err *err)
{
    const struct gd_json *v = gd_json_get(obj, key);
    char wanted[96];
    int64_t n;
    if (absent(v))
        return GD_OK;
    (void)snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)min,
                   (long long)max);
    if (v->type != GD_JSON_NUMBER)
        return fail_type(err, where, key, wanted, v);
    if (!gd_json_i64(v, &n) || n < min || n > max)
        return fail_range(err, where, key, wanted, v);
    *out = n;
    return GD_OK;
}

int gd_json_want_bool(const struct gd_json *obj, const char *where, const char *key, bool *out,
                      struct gd_err *err)
{
    const struct gd_json *v = gd_json_get(obj, key);
    if (absent(v))
        return GD_OK;
    if (v->type != GD_JSON_TRUE && v->type != GD_JSON_FALSE)
        return fail_type(err, where, key, "a boolean", v);
    *out = v->type == GD_JSON_TRUE;
    return GD_OK;
}
