/* test_notify.c - what the service manager is told, byte for byte, through a socket of a path and an
 * abstract one; that nothing is told where there is nobody; and what a wrong address or a deaf manager
 * does. */
#include "guardian/notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char dir[] = "/tmp/gd-test-notify-XXXXXX";
static char path[64];

/* A manager that listens at text, as NOTIFY_SOCKET has it. */
static int manager(const char *text)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text));
    memcpy(sa.sun_path, text, strlen(text));
    if (text[0] == '@') {
        sa.sun_path[0] = '\0';
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    setenv("NOTIFY_SOCKET", text, 1);
    return fd;
}

static const char *heard(int fd)
{
    static char text[1024];
    ssize_t n = recv(fd, text, sizeof text - 1, 0); /* a datagram is there when send has returned */
    text[n > 0 ? n : 0] = '\0';
    return n < 0 ? NULL : text;
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    unlink(path);
    return rmdir(dir);
}

static void tell_all(int fd)
{
    struct gd_err err = {0};
    assert_int_equal(gd_notify_ready(&err), GD_OK);
    assert_string_equal(heard(fd), "READY=1");
    assert_int_equal(gd_notify_stopping(&err), GD_OK);
    assert_string_equal(heard(fd), "STOPPING=1");
    assert_int_equal(gd_notify_alive(&err), GD_OK);
    assert_string_equal(heard(fd), "WATCHDOG=1");
    assert_null(heard(fd)); /* one datagram each */
}

static void test_path(void **state)
{
    (void)state;
    int fd = manager(path);
    tell_all(fd);
    close(fd);
}

static void test_abstract(void **state)
{
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "@gd-test-notify-%d", (int)getpid());
    int fd = manager(name);
    tell_all(fd);
    close(fd);
}

static void test_reloading(void **state)
{
    (void)state;
    struct timespec t;
    int fd = manager(path);
    long long at[3];
    clock_gettime(CLOCK_MONOTONIC, &t);
    at[0] = (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
    assert_int_equal(gd_notify_reloading(NULL), GD_OK);
    clock_gettime(CLOCK_MONOTONIC, &t);
    at[2] = (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
    const char *text = heard(fd);
    char rest = 0;
    assert_int_equal(sscanf(text, "RELOADING=1\nMONOTONIC_USEC=%lld%c", &at[1], &rest), 1);
    assert_true(at[0] <= at[1] && at[1] <= at[2]);
    close(fd);
}

static void test_nobody(void **state)
{
    (void)state;
    struct gd_err err = {0};
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(gd_notify_ready(&err), GD_OK);
    setenv("NOTIFY_SOCKET", "", 1);
    assert_int_equal(gd_notify_ready(&err), GD_OK);
    assert_int_equal(gd_notify_watchdog_ns(), 0);
}

static void test_wrong_address(void **state)
{
    (void)state;
    static const char *const wrong[] = {"x", "/", "@", "run/notify", "vsock:2:1234", NULL};
    char longest[256];
    struct gd_err err = {0};
    for (int i = 0; wrong[i] != NULL; i++) {
        setenv("NOTIFY_SOCKET", wrong[i], 1);
        assert_int_equal(gd_notify_ready(&err), GD_EUSAGE);
        assert_non_null(strstr(err.msg, wrong[i]));
    }
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[108] = '\0';
    setenv("NOTIFY_SOCKET", longest, 1);
    assert_int_equal(gd_notify_ready(&err), GD_EUSAGE);
    longest[107] = '\0'; /* fits; nobody is there */
    setenv("NOTIFY_SOCKET", longest, 1);
    assert_int_equal(gd_notify_ready(&err), GD_EIO);
    assert_non_null(strstr(err.msg, "NOTIFY_SOCKET"));
}

/* It does not wait for ever for a manager that does not read. */
static void test_deaf(void **state)
{
    (void)state;
    struct gd_err err = {0};
    int fd = manager(path), rc = GD_OK, n = 0;
    for (; rc == GD_OK && n < 100000; n++) {
        rc = gd_notify_alive(&err);
    }
    assert_int_equal(rc, GD_EIO);
    assert_true(n > 1);
    close(fd);
}

static void test_watchdog(void **state)
{
    (void)state;
    char pid[32];
    setenv("WATCHDOG_USEC", "3000000", 1);
    assert_true(gd_notify_watchdog_ns() == 3000000000ll);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_true(gd_notify_watchdog_ns() == 3000000000ll);
    setenv("WATCHDOG_PID", "1", 1); /* meant for another process */
    assert_true(gd_notify_watchdog_ns() == 0);
    setenv("WATCHDOG_PID", "x", 1);
    assert_true(gd_notify_watchdog_ns() == 0);
    unsetenv("WATCHDOG_PID");
    static const char *const wrong[] = {"", "0", "-5", " 5", "5s", "99999999999999999999", NULL};
    for (int i = 0; wrong[i] != NULL; i++) {
        setenv("WATCHDOG_USEC", wrong[i], 1);
        assert_true(gd_notify_watchdog_ns() == 0);
    }
    setenv("WATCHDOG_USEC", "9223372036854775807", 1);
    assert_true(gd_notify_watchdog_ns() == 0);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_path),          CASE(test_abstract), CASE(test_reloading), CASE(test_nobody),
        CASE(test_wrong_address), CASE(test_deaf),     CASE(test_watchdog),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
