/* test_socket.c - what the HTTP library gets in place of the C library's socket calls: connections above
 * the limit are answered, a buffer holds nothing of an earlier connection, and stopping ends what is open. */
#include "guardian/socket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int listener;
static struct sockaddr_in at;

static int setup(void **state)
{
    socklen_t len = sizeof(at);
    (void)state;
    at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(listener >= 0);
    assert_int_equal(bind(listener, (const struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(listener, 16), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return close(listener);
}

static int client(void)
{
    const struct timeval patience = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static void send_text(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

static void test_above_the_limit(void **state)
{
    (void)state;
    char answer[512] = "";
    assert_int_equal(gd_sockets_init(2), 2);
    assert_int_equal(gd_sockets_max(), 2);
    const uint64_t before = gd_sockets_refused();
    int clients[3], ends[2];
    for (int i = 0; i < 2; i++) {
        clients[i] = client();
        ends[i] = accept(listener, NULL, NULL);
        assert_true(ends[i] >= 0);
    }
    assert_int_equal(gd_sockets_open(), 2);
    clients[2] = client();
    assert_int_equal(accept(listener, NULL, NULL), -1);
    assert_int_equal(errno, ECONNABORTED);
    assert_int_equal(gd_sockets_open(), 2);
    assert_int_equal(gd_sockets_refused(), before + 1);
    send_text(clients[2], "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); /* what it sends does not wipe its answer */
    assert_true(recv(clients[2], answer, sizeof(answer) - 1, MSG_WAITALL) > 0);
    assert_memory_equal(answer, "HTTP/1.1 503 ", 13);
    assert_non_null(strstr(answer, "\r\nRetry-After: 1\r\n"));
    assert_non_null(strstr(answer, "\r\nContent-Length: "));
    const char *body = strstr(answer, "\r\n\r\n") + 4;
    assert_int_equal(strtol(strstr(answer, "Content-Length: ") + 16, NULL, 10), strlen(body));
    assert_non_null(strstr(body, "\"code\":\"overloaded\""));
    assert_int_equal(close(ends[0]), 0);
    assert_int_equal(gd_sockets_open(), 1);
    int again = client();
    ends[0] = accept(listener, NULL, NULL); /* there is room again */
    assert_true(ends[0] >= 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(close(ends[i]), 0);
        close(clients[i]);
    }
    close(again);
    close(clients[2]);
    assert_int_equal(gd_sockets_open(), 0);
}

/* Descriptors of refused connections go when the client is gone, or a second later. */
static void test_sweep(void **state)
{
    (void)state;
    int clients[300];
    assert_int_equal(gd_sockets_init(0), 0);
    const int first = dup(0); /* the lowest number that is free */
    close(first);
    for (int i = 0; i < 300; i++) {
        clients[i] = client();
        assert_int_equal(accept(listener, NULL, NULL), -1);
    }
    for (int i = 0; i < 150; i++) {
        close(clients[i]);
    }
    gd_sockets_sweep(1000);
    gd_sockets_sweep(1000 + 999999999);
    gd_sockets_sweep(1000 + 1000000000);
    for (int i = 150; i < 300; i++) {
        close(clients[i]);
    }
    const int last = dup(0);
    assert_int_equal(last, first); /* none is left open */
    close(last);
}

static char buffer[1024];

/* Reads twice into the buffer, as a worker does for the head of a request. */
static void read_into_buffer(const char *first, const char *second)
{
    int fd = client(), end = accept(listener, NULL, NULL);
    assert_true(end >= 0);
    send_text(fd, first);
    ssize_t k = recv(end, buffer, sizeof(buffer), 0);
    assert_int_equal(k, (ssize_t)strlen(first));
    assert_int_equal(gd_socket_current(), end);
    assert_ptr_equal(gd_socket_buffer(), buffer);
    send_text(fd, second);
    assert_int_equal(recv(end, buffer + k, sizeof(buffer) - (size_t)k, 0), (ssize_t)strlen(second));
    close(end);
    assert_int_equal(gd_socket_current(), -1);
    close(fd);
}

static void *on_a_worker(void *ctx)
{
    (void)ctx;
    memset(buffer, 'x', sizeof(buffer)); /* as malloc may give it */
    assert_null(gd_socket_buffer());
    assert_int_equal(gd_socket_current(), -1);
    read_into_buffer("GET /secret HTTP/1.1\r\n", "Authorization: Bearer victim\r\n\r\n");
    assert_non_null(strstr(buffer, "victim"));
    read_into_buffer("\r\n", "\r\n");
    assert_memory_equal(buffer, "\r\n\r\n", 4);
    for (size_t i = 4; i < sizeof(buffer); i++) {
        assert_int_equal(buffer[i], 0);
    }
    return NULL;
}

static void test_nothing_of_another_connection(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(gd_sockets_init(4), 4);
    assert_int_equal(pthread_create(&thread, NULL, on_a_worker, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_body_reads_leave_the_buffer(void **state)
{
    (void)state;
    char body[64];
    assert_int_equal(gd_sockets_init(4), 4);
    int fd = client(), end = accept(listener, NULL, NULL);
    send_text(fd, "head");
    assert_int_equal(recv(end, buffer, sizeof(buffer), 0), 4);
    send_text(fd, "body");
    assert_int_equal(recv(end, body, sizeof(body), 0), 4); /* the same connection, another place */
    assert_memory_equal(buffer, "head", 4);
    assert_ptr_equal(gd_socket_buffer(), buffer);
    close(end);
    close(fd);
}

static void test_stop(void **state)
{
    (void)state;
    char byte;
    assert_int_equal(gd_sockets_init(4), 4);
    int fd = client(), end = accept(listener, NULL, NULL);
    assert_true(end >= 0);
    gd_sockets_stop();
    assert_int_equal(recv(end, &byte, 1, 0), 0); /* no more of the client's bytes */
    send_text(end, "!");                         /* the answer still goes out */
    assert_int_equal(recv(fd, &byte, 1, 0), 1);
    int late = client();
    assert_int_equal(accept(listener, NULL, NULL), -1);
    char answer[512] = "";
    assert_true(recv(late, answer, sizeof(answer) - 1, MSG_WAITALL) > 0);
    assert_non_null(strstr(answer, "\"code\":\"draining\""));
    assert_int_equal(strtol(strstr(answer, "Content-Length: ") + 16, NULL, 10),
                     strlen(strstr(answer, "\r\n\r\n") + 4));
    close(late);
    close(end);
    close(fd);
    gd_sockets_sweep(INT64_MAX);
    gd_sockets_unlisten();
    late = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(late, (const struct sockaddr *)&at, sizeof(at)), -1);
    assert_int_equal(errno, ECONNREFUSED);
    close(late);
    assert_int_equal(gd_sockets_init(4), 4);
}

/* Lowering the hard limit is for good, so that a child does it. 0 when all is as it should be. */
static int few_descriptors(void)
{
    struct rlimit few = {.rlim_cur = 300, .rlim_max = 1400};
    bool ok = setrlimit(RLIMIT_NOFILE, &few) == 0;
    ok = ok && gd_sockets_init(400) == 400; /* the soft limit is raised */
    ok = ok && getrlimit(RLIMIT_NOFILE, &few) == 0 && few.rlim_cur == 400 + 512;
    ok = ok && gd_sockets_init(2000) == 1400 - 512 && gd_sockets_max() == 1400 - 512;
    ok = ok && getrlimit(RLIMIT_NOFILE, &few) == 0 && few.rlim_cur == 1400;
    return ok ? 0 : 1;
}

static void test_descriptors(void **state)
{
    (void)state;
    int status = -1;
    const pid_t child = fork();
    if (child == 0) {
        _exit(few_descriptors());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_above_the_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_of_another_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_body_reads_leave_the_buffer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test(test_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
