/* prime.c - one request through each worker of the HTTP library, before anyone else is served well.
 *
 * The gate takes the lowest place where a request line was seen on a worker for the start of its
 * buffer. This is only right after one request of whose first byte we are sure; so the server asks
 * itself, over as many connections at once as there are workers. They stay open until the last is
 * answered, so that each holds a worker of its own. */
#include "guardian/http.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_one(struct in_addr to, uint16_t port, const char *request, size_t len)
{
    const struct timeval patience = {.tv_sec = 5};
    const struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = to};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) != 0 ||
        send(fd, request, len, MSG_NOSIGNAL) != (ssize_t)len) {
        close(fd);
        return -1;
    }
    return fd;
}

uint32_t gd_http_prime(const char *host, uint16_t port, const char *id)
{
    static const char ok[] = "HTTP/1.1 200";
    int fds[GD_HTTP_CONNECTIONS_MAX];
    char request[256];
    struct in_addr to;
    uint32_t n_ok = 0;
    if (inet_pton(AF_INET, host, &to) != 1) {
        return 0;
    }
    if (to.s_addr == htonl(INADDR_ANY)) {
        to.s_addr = htonl(INADDR_LOOPBACK);
    }
    int len = snprintf(request, sizeof(request),
                       "GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-request-id: %s\r\n\r\n", id);
    for (uint32_t i = 0; i < GD_HTTP_CONNECTIONS_MAX; i++) {
        fds[i] = connect_one(to, port, request, (size_t)len);
    }
    for (uint32_t i = 0; i < GD_HTTP_CONNECTIONS_MAX; i++) {
        char head[sizeof(ok)] = "";
        if (fds[i] >= 0 && recv(fds[i], head, sizeof(ok) - 1, MSG_WAITALL) > 0) {
            n_ok += memcmp(head, ok, sizeof(ok) - 1) == 0 ? 1 : 0;
        }
    }
    for (uint32_t i = 0; i < GD_HTTP_CONNECTIONS_MAX; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    return n_ok;
}
