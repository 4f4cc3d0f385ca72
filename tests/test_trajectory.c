/* test_trajectory.c - the three input forms as events: order, calls and results that belong together, both protocol eras,
 * phases, flags, limits, and errors that name their place. */
#include "guardian/trajectory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

static void expect_str(struct gd_str s, const char *want)
{
    if (!gd_str_eqz(s, want))
        fail_msg("'%.*s' is not '%s'", (int)s.len, s.ptr, want);
}

/* The kinds of all events, one letter each: S U A C R T. */
static void expect_kinds(const struct guard_case *c, const char *want)
{
    static const char letters[] = {[GD_EVENT_SYSTEM] = 'S', [GD_EVENT_USER] = 'U',   [GD_EVENT_ASSISTANT] = 'A',
                                   [GD_EVENT_CALL] = 'C',   [GD_EVENT_RESULT] = 'R', [GD_EVENT_CATALOG] = 'T'};
    char got[64] = "";
    if (c->rc != GD_OK)
        fail_msg("%s", c->err.msg);
    for (uint32_t i = 0; i < c->traj.n_events && i < 63; i++)
        got[i] = letters[c->traj.events[i].kind];
    assert_string_equal(got, want);
}

#define U "{\"role\":\"user\",\"content\":\"hi\"}"
#define CALL(id, name) "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":\"{}\"}}"
#define CALLS(list) "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" list "]}"
#define RESULT(id, text) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"" text "\"}"
#define SAY(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define MESSAGES(list) "{\"messages\":[" list "]}"
#define FRAMES(list) "{\"frames\":[" list "]}"
#define RPC_CALL(id, name, args)                                                                                       \
    "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"tools/call\",\"params\":{\"name\":\"" name "\",\"arguments\":" args "}}"
#define RPC_TEXT(id, text)                                                                                             \
    "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"" text "\"}]}}"

static void test_messages(void **state)
{
    (void)state;
    struct guard_case c;
    case_parse(&c, "{\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"developer\",\"content\":\"x\"},"
                   "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"image_url\","
                   "\"image_url\":{\"url\":\"u\"}},{\"type\":\"text\",\"text\":\"two\"}]},"
                   "{\"role\":\"assistant\",\"content\":\"I look\",\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\","
                   "\"arguments\":\"{\\\"x\\\": 1.50}\"}},{\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":{\"y\":2}}}]},"
                   "{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":\"{\\\"ok\\\":true}\"},"
                   "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"name\":\"ignored\",\"content\":\"plain\",\"is_error\":true},"
                   "{\"role\":\"assistant\",\"content\":\"done\"}],"
                   "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{}}},"
                   "{\"name\":\"g\",\"inputSchema\":{\"type\":\"object\"}},{\"name\":\"h\",\"parameters\":{}}],"
                   "\"session\":\"s\",\"principal\":{\"id\":1},\"mode\":\"score\",\"metadata\":{\"a\":1},\"dry_run\":true,\"whatever\":[]}");
    expect_kinds(&c, "TSSUACCRRA");
    const struct gd_event *e = c.traj.events;
    assert_int_equal(c.traj.n_tools, 3);
    expect_str(c.traj.tools[0].name, "f");
    expect_str(c.traj.tools[0].description, "d");
    assert_non_null(c.traj.tools[0].schema);
    assert_non_null(c.traj.tools[1].schema);
    expect_str(e[3].text, "one\n[image]\ntwo");
    expect_str(e[5].name, "f");
    expect_str(e[5].call_id, "a");
    assert_non_null(e[5].payload);
    expect_str(gd_json_get(e[5].payload, "x")->raw, "1.50");
    assert_int_equal(e[7].call, 6);
    expect_str(e[7].name, "g");
    assert_non_null(e[7].payload);
    assert_int_equal(e[8].call, 5);
    expect_str(e[8].name, "f");
    assert_true(e[8].is_error);
    assert_null(e[8].payload);
    assert_int_equal(c.traj.phase, GD_PHASE_RESPONSE);
    assert_int_equal(c.traj.step, -1);
    assert_true(c.traj.has_user);
    assert_int_equal(c.traj.flags, 0);
    case_free(&c);
}

static void test_legacy_functions(void **state)
{
    (void)state;
    struct guard_case c;
    case_parse(&c, MESSAGES(U ",{\"role\":\"assistant\",\"content\":null,\"function_call\":{\"name\":\"f\",\"arguments\":\"{}\"}},"
                              "{\"role\":\"function\",\"name\":\"f\",\"content\":\"42\"}"));
    expect_kinds(&c, "UCR");
    assert_int_equal(c.traj.events[2].call, 1);
    assert_int_equal(c.traj.step, 0);
    case_free(&c);
}

/* Which call a result belongs to. */
static void test_matching(void **state)
{
    (void)state;
    const struct {
        const char *request;
        int32_t call; /* of the last event */
    } cases[] = {
        {MESSAGES(CALLS(CALL("a", "f") "," CALL("b", "g")) "," RESULT("b", "x")), 1},
        {MESSAGES(CALLS(CALL("a", "f") "," CALL("a", "g")) "," RESULT("a", "x")), 0}, /* the oldest */
        {MESSAGES(CALLS(CALL("a", "f") "," CALL("a", "g")) "," RESULT("a", "x") "," RESULT("a", "x")), 1},
        {MESSAGES(CALLS(CALL("a", "f")) "," RESULT("z", "x")), -1},
        {MESSAGES(CALLS(CALL("a", "f")) "," RESULT("a", "x") "," RESULT("a", "y")), -1}, /* answered already */
        {MESSAGES(CALLS(CALL("a", "f") "," CALL("b", "g")) ",{\"role\":\"tool\",\"name\":\"g\",\"content\":\"x\"}"), 1},
        {MESSAGES(CALLS(CALL("a", "f") "," CALL("b", "g")) ",{\"role\":\"tool\",\"content\":\"x\"}"), 0},
        {MESSAGES(CALLS(CALL("a", "f")) ",{\"role\":\"tool\",\"name\":\"g\",\"content\":\"x\"}"), -1},
        {MESSAGES(CALLS(CALL("a", "f")) "," SAY("wait") "," RESULT("a", "late")), 0},
        {FRAMES(RPC_CALL("1", "f", "{}") "," RPC_CALL("\"1\"", "g", "{}") "," RPC_TEXT("\"1\"", "x")), 1},
        {FRAMES(RPC_CALL("1", "f", "{}") "," RPC_CALL("\"1\"", "g", "{}") "," RPC_TEXT("1", "x")), 0},
        {FRAMES(RPC_CALL("1", "f", "{}") "," RPC_TEXT("2", "x")), -1},
        {FRAMES(RPC_CALL("1", "f", "{}") "," RPC_TEXT("1", "x") "," RPC_TEXT("1", "y")), -1},
        {FRAMES(RPC_CALL("1", "f", "{}") "," RPC_CALL("2", "f", "{}") "," RPC_TEXT("2", "x") "," RPC_TEXT("1", "x")), 0},
        {FRAMES("{\"id\":1,\"server\":\"s\",\"method\":\"tools/call\",\"params\":{\"name\":\"f\"}},"
                "{\"id\":1,\"server\":\"t\",\"result\":{\"content\":[]}}"), -1},
        {FRAMES("{\"id\":1,\"server\":\"s\",\"method\":\"tools/call\",\"params\":{\"name\":\"f\"}},"
                "{\"id\":1,\"server\":\"t\",\"method\":\"tools/call\",\"params\":{\"name\":\"f\"}},"
                "{\"id\":1,\"server\":\"s\",\"result\":{\"content\":[]}}"), 0},
        /* a server's own request with the same id */
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"method\":\"elicitation/create\",\"params\":{}},"
                                         "{\"id\":1,\"result\":{\"action\":\"accept\"}}," RPC_TEXT("1", "x")), 0},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"method\":\"ping\"}," RPC_TEXT("1", "x") ",{\"id\":1,\"result\":{}}"), 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guard_case c;
        case_parse(&c, cases[i].request);
        if (c.rc != GD_OK)
            fail_msg("%s: %s", cases[i].request, c.err.msg);
        const struct gd_event *last = &c.traj.events[c.traj.n_events - 1];
        if (last->kind != GD_EVENT_RESULT || last->call != cases[i].call)
            fail_msg("%s: call %d", cases[i].request, (int)last->call);
        case_free(&c);
    }
}

/* Where one id waits in both directions, the shape of the response tells whose it is. */
static void test_ids_of_both_directions(void **state)
{
    (void)state;
    const char *const asked[] = {
        ",{\"id\":1,\"method\":\"elicitation/create\"},{\"id\":1,\"result\":{\"action\":\"accept\"}},",
        ",{\"id\":1,\"method\":\"sampling/createMessage\"},{\"id\":1,\"result\":{\"role\":\"assistant\",\"content\":{}}},",
        ",{\"id\":1,\"method\":\"roots/list\"},{\"id\":1,\"result\":{\"roots\":[]}},",
        ",{\"id\":1,\"method\":\"ping\"},{\"id\":1,\"result\":{}},",
    };
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        char text[1024];
        struct guard_case c;
        snprintf(text, sizeof text, FRAMES(RPC_CALL("1", "f", "{}") "%s" RPC_TEXT("1", "mine")), asked[i]);
        case_parse(&c, text);
        expect_kinds(&c, "CR");
        expect_str(c.traj.events[1].text, "mine");
        assert_int_equal(c.traj.flags, 0);
        case_free(&c);
    }
}

/* What a client could take for the result of its call is an event, whatever the server did around it. */
static void test_no_result_is_hidden(void **state)
{
    (void)state;
#define BAD "\"content\":[{\"type\":\"text\",\"text\":\"bad\"}]"
    const struct {
        const char *frames, *kinds;
        bool doubt;
    } cases[] = {
        {"{\"id\":1,\"method\":\"tools/list\"},{\"id\":1,\"result\":{" BAD "}}", "CR", true},
        {"{\"id\":1,\"method\":\"tools/list\"},{\"id\":1,\"result\":{\"tools\":[]," BAD "}}", "CR", true},
        {"{\"id\":1,\"method\":\"ping\"},{\"id\":1,\"result\":{\"action\":\"accept\"," BAD "}}", "CR", true},
        {"{\"id\":1,\"method\":\"ping\"},{\"id\":1,\"result\":{\"role\":\"assistant\"," BAD "}}", "CR", true},
        {"{\"id\":1,\"method\":\"ping\"},{\"id\":1,\"result\":{\"structuredContent\":{}}}", "CR", false},
        {"{\"id\":2,\"method\":\"tools/list\"},{\"id\":2,\"result\":{" BAD "}}", "CR", false},
        {"{\"id\":1,\"result\":{\"resultType\":\"input_required\"," BAD "}}", "CR", false},
        {"{\"id\":1,\"result\":{\"resultType\":\"input_required\"}}", "C", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024];
        struct guard_case c;
        snprintf(text, sizeof text, FRAMES(RPC_CALL("1", "f", "{}") ",%s"), cases[i].frames);
        case_parse(&c, text);
        if (c.rc != GD_OK || ((c.traj.flags & GD_TRAJ_F_DOUBT) != 0) != cases[i].doubt)
            fail_msg("%s: %s, flags %u", text, c.err.msg, c.traj.flags);
        expect_kinds(&c, cases[i].kinds);
        case_free(&c);
    }
    const struct {
        const char *request, *message;
    } refused[] = {
        {FRAMES(RPC_CALL("1", "f", "{}") ",[" RPC_TEXT("1", "bad") "," RPC_CALL("9", "x", "{}") "]"), "nobody sends both at once"},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"jsonrpc\":\"2.0\",\"role\":\"user\",\"content\":\"yes\"}"), "'role'"},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"role\":\"user\",\"content\":\"yes\"}"), "'role'"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct guard_case c;
        case_parse(&c, refused[i].request);
        assert_int_equal(c.rc, GD_EFIELD);
        assert_non_null(strstr(c.err.msg, refused[i].message));
        case_free(&c);
    }
}

/* Decoys beside what a client reads, and arguments that look like others. */
static void test_decoys(void **state)
{
    (void)state;
#define TWO "{\"name\":\"f\",\"description\":\"bad\",\"function\":{\"name\":\"f\",\"description\":\"good\"}}"
    const struct {
        const char *request;
        bool doubt;
    } cases[] = {
        {"{\"tools\":[" TWO "],\"messages\":[" SAY("x") "]}", true},
        {FRAMES("{\"id\":1,\"method\":\"tools/list\"},{\"id\":1,\"result\":{\"tools\":[" TWO "]}}," SAY("x")), false},
        {"{\"tools\":[{\"name\":\"f\",\"description\":\"bad\",\"parameters\":{},\"inputSchema\":{}}],\"messages\":[" SAY("x") "]}", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guard_case c;
        case_parse(&c, cases[i].request);
        assert_int_equal(c.rc, GD_OK);
        expect_str(c.traj.tools[0].description, "bad");
        assert_int_equal((c.traj.flags & GD_TRAJ_F_DOUBT) != 0, cases[i].doubt);
        case_free(&c);
    }
    const struct {
        const char *arguments;
        bool doubt;
    } texts[] = {
        {"alice@paypal.com", false}, {"alice@p\xD0\xB0ypal.com", true}, {"/etc/\xE2\x80\x8Bpasswd", true},
        {"\xCE\x94t in \xCE\xBCs", false}, {"1\xEF\xB8\x8F\xE2\x83\xA3 \xE2\x9D\xA4\xEF\xB8\x8F", false},
        {"ok\xF3\xA0\x81\x81", true}, {"\xD0\xBF\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 world", false},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
#define IN_CALL(arguments)                                                                                             \
    "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":" arguments "}}]}]}"
        for (int k = 0; k < 3; k++) {
            char text[512];
            struct guard_case c;
            if (k == 0)
                snprintf(text, sizeof text, IN_CALL("{\"to\":[\"%s\"]}"), texts[i].arguments);
            else if (k == 1)
                snprintf(text, sizeof text, IN_CALL("{\"%s\":1}"), texts[i].arguments);
            else
                snprintf(text, sizeof text, IN_CALL("\"%s\""), texts[i].arguments);
            case_parse(&c, text);
            assert_int_equal(c.rc, GD_OK);
            if (((c.traj.flags & GD_TRAJ_F_DOUBT) != 0) != texts[i].doubt)
                fail_msg("%s: flags %u", text, c.traj.flags);
            case_free(&c);
        }
    }
}

static void test_phase_and_step(void **state)
{
    (void)state;
    const struct {
        const char *request;
        enum gd_phase phase;
        int32_t step;
        bool user;
    } cases[] = {
        {MESSAGES(U "," SAY("x")), GD_PHASE_RESPONSE, -1, true},
        {MESSAGES(SAY("x")), GD_PHASE_RESPONSE, -1, false},
        {MESSAGES("{\"role\":\"user\",\"content\":\" \\n\"}," SAY("x")), GD_PHASE_RESPONSE, -1, false},
        {MESSAGES(U "," CALLS(CALL("a", "f"))), GD_PHASE_REQUEST, 0, true},
        {MESSAGES(U "," CALLS(CALL("a", "f") "," CALL("b", "g"))), GD_PHASE_REQUEST, 1, true},
        {MESSAGES(U "," CALLS(CALL("a", "f") "," CALL("b", "g")) "," RESULT("a", "x")), GD_PHASE_RESPONSE, 0, true},
        {MESSAGES(U "," CALLS(CALL("a", "f")) "," RESULT("a", "x") "," CALLS(CALL("b", "f"))), GD_PHASE_REQUEST, 1, true},
        {MESSAGES(U "," CALLS(CALL("a", "f")) "," RESULT("a", "x") "," SAY("ok")), GD_PHASE_RESPONSE, -1, true},
        {MESSAGES(U "," CALLS(CALL("a", "f")) "," RESULT("a", "x") "," U), GD_PHASE_RESPONSE, 0, true},
        {MESSAGES(U "," CALLS(CALL("a", "f")) "," U), GD_PHASE_RESPONSE, 0, true},
        {MESSAGES(CALLS(CALL("a", "f")) "," RESULT("z", "x")), GD_PHASE_RESPONSE, -1, false},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":2,\"method\":\"tools/list\"},{\"id\":2,\"result\":{\"tools\":[{\"name\":\"f\"}]}}"),
         GD_PHASE_REQUEST, 0, false}, /* catalogues aside */
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"error\":{\"code\":-32602,\"message\":\"no\"}}"), GD_PHASE_RESPONSE, 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guard_case c;
        case_parse(&c, cases[i].request);
        if (c.rc != GD_OK)
            fail_msg("%s: %s", cases[i].request, c.err.msg);
        if (c.traj.phase != cases[i].phase || c.traj.step != cases[i].step || c.traj.has_user != cases[i].user)
            fail_msg("%s: %s, step %d", cases[i].request, gd_phase_name(c.traj.phase), (int)c.traj.step);
        case_free(&c);
    }
    struct guard_case c;
    case_parse(&c, "{\"phase\":\"request\",\"messages\":[" U "," CALLS(CALL("a", "f")) "]}");
    assert_int_equal(c.rc, GD_OK);
    case_free(&c);
}

static void test_frames_both_eras(void **state)
{
    (void)state;
    const char *const handshakes[] = {
        "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{}},{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":"
        "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{}}},{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"},",
        "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"server/discover\",\"params\":{\"_meta\":{}}},{\"jsonrpc\":\"2.0\",\"id\":0,"
        "\"result\":{\"resultType\":\"complete\",\"supportedVersions\":[\"2026-07-28\"],\"capabilities\":{}}},",
        "{\"id\":0,\"result\":{\"protocolVersion\":\"2025-06-18\"}},", /* request not recorded */
    };
    for (size_t i = 0; i < 3; i++) {
        struct guard_case c;
        char text[4096];
        snprintf(text, sizeof text, "{\"server\":\"files\",\"frames\":[%s%s]}", handshakes[i],
                 "{\"id\":1,\"method\":\"tools/list\"},"
                 "{\"id\":1,\"result\":{\"tools\":[{\"name\":\"a\",\"inputSchema\":{}}],\"nextCursor\":\"c\"}},"
                 "{\"id\":2,\"method\":\"tools/list\",\"params\":{\"cursor\":\"c\"}},"
                 "{\"id\":2,\"result\":{\"tools\":[{\"name\":\"b\",\"inputSchema\":{}}]}}," U ","
                 "{\"method\":\"notifications/tools/list_changed\"},"
                 "[" RPC_CALL("3", "a", "{\"x\":1}") ",{\"method\":\"notifications/progress\",\"params\":{}}],"
                 "{\"id\":77,\"method\":\"sampling/createMessage\",\"params\":{}},"
                 "{\"id\":77,\"result\":{\"role\":\"assistant\",\"content\":{\"type\":\"text\",\"text\":\"m\"},\"model\":\"m\"}},"
                 RPC_TEXT("3", "fine") "," SAY("done") ",{\"id\":4,\"method\":\"ping\"},{\"id\":4,\"result\":{}}");
        case_parse(&c, text);
        expect_kinds(&c, "TTUCRA");
        assert_int_equal(c.traj.n_tools, 2);
        assert_int_equal(c.traj.events[1].tool_first, 1);
        expect_str(c.traj.events[3].server, "files");
        expect_str(c.traj.events[4].text, "fine");
        assert_int_equal(c.traj.events[4].call, 3);
        case_free(&c);
    }
}

/* A list whose request was not recorded is known by its shape. */
static void test_unasked_responses(void **state)
{
    (void)state;
    struct guard_case c;
    case_parse(&c, FRAMES("{\"id\":9,\"result\":{\"tools\":[{\"name\":\"a\"}]}},{\"id\":8,\"result\":{}},{\"id\":7,\"result\":"
                          "{\"structuredContent\":{\"capabilities\":1}}},{\"id\":6,\"error\":{\"code\":-32603,\"message\":\"boom\"}}"));
    expect_kinds(&c, "TRR");
    assert_int_equal(c.traj.events[1].call, -1);
    assert_true(c.traj.events[2].is_error);
    expect_str(c.traj.events[2].text, "-32603 boom");
    assert_int_equal(c.traj.step, -1);
    case_free(&c);
}

#define ASK(id, state) "{\"id\":" id ",\"result\":{\"resultType\":\"input_required\",\"inputRequests\":{}" state "}}"
#define RETRY(id, args, more)                                                                                          \
    "{\"id\":" id ",\"method\":\"tools/call\",\"params\":{\"name\":\"f\",\"arguments\":" args "," more "}}"
#define STATE(s) "\"requestState\":\"" s "\""

static void test_multi_round_trip(void **state)
{
    (void)state;
    const struct {
        const char *request, *kinds;
        enum gd_phase phase;
    } cases[] = {
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s"))), "UC", GD_PHASE_REQUEST},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s")) ","
                RETRY("2", "{\"x\":1}", STATE("s") ",\"inputResponses\":{}")), "UC", GD_PHASE_REQUEST},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s")) ","
                RETRY("2", "{\"x\":1}", STATE("s")) "," RPC_TEXT("2", "ok")), "UCR", GD_PHASE_RESPONSE},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s")) "," RETRY("2", "{\"x\":1}", STATE("s")) ","
                ASK("2", "," STATE("t")) "," RETRY("3", "{\"x\":1}", STATE("t")) "," RPC_TEXT("3", "ok")), "UCR", GD_PHASE_RESPONSE},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "") ","
                RETRY("2", "{\"x\":1}", "\"inputResponses\":{}") "," RPC_TEXT("2", "ok")), "UCR", GD_PHASE_RESPONSE},
        /* not the same call: other state, other arguments, nothing asked, asked once and retried twice */
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s")) "," RETRY("2", "{\"x\":1}", STATE("t"))),
         "UCC", GD_PHASE_REQUEST},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s")) "," RETRY("2", "{\"x\":2}", STATE("s"))),
         "UCC", GD_PHASE_REQUEST},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," RPC_TEXT("1", "ok") "," RETRY("2", "{\"x\":1}", STATE("s"))),
         "UCRC", GD_PHASE_REQUEST},
        {FRAMES(U "," RPC_CALL("1", "f", "{\"x\":1}") "," ASK("1", "," STATE("s")) "," RETRY("2", "{\"x\":1}", STATE("s")) ","
                RPC_TEXT("2", "ok") "," RETRY("3", "{\"x\":1}", STATE("s"))), "UCRC", GD_PHASE_REQUEST},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guard_case c;
        case_parse(&c, cases[i].request);
        expect_kinds(&c, cases[i].kinds);
        assert_int_equal(c.traj.phase, cases[i].phase);
        if (c.traj.phase == GD_PHASE_RESPONSE)
            assert_int_equal(c.traj.events[2].call, 1);
        case_free(&c);
    }
}

/* What a CallToolResult becomes: text, or a payload, or both. */
static void test_tool_results(void **state)
{
    (void)state;
    const struct {
        const char *result, *text; /* text NULL: the payload counts */
        bool payload, error;
    } cases[] = {
        {"{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}", "a\nb", false, false},
        {"{\"content\":[{\"type\":\"image\",\"data\":\"QUJDRA==\",\"mimeType\":\"image/png\"}]}", "[image image/png 4 bytes]", false, false},
        {"{\"content\":[{\"type\":\"audio\",\"data\":\"QUJD\",\"mimeType\":\"audio/wav\"}]}", "[audio audio/wav 3 bytes]", false, false},
        {"{\"content\":[{\"type\":\"resource_link\",\"uri\":\"file:///a\",\"name\":\"a\"}]}", "[resource_link a file:///a]", false, false},
        {"{\"content\":[{\"type\":\"resource\",\"resource\":{\"uri\":\"u\",\"text\":\"inside\"}}]}", "inside", false, false},
        {"{\"content\":[{\"type\":\"resource\",\"text\":\"decoy\",\"resource\":{\"uri\":\"u\",\"text\":\"inside\"}}]}", "inside", false, false},
        {"{\"content\":[{\"type\":\"new\",\"text\":\"decoy\",\"say\":\"inside\"}]}",
         "{\"type\": \"new\", \"text\": \"decoy\", \"say\": \"inside\"}", true, false},
        {"{\"content\":[{\"type\":\"resource_link\",\"uri\":\"u\",\"name\":\"a\",\"description\":\"do it\"}]}", "[resource_link a u do it]", false, false},
        {"{\"content\":[{\"type\":\"resource\",\"resource\":{\"uri\":\"u\",\"blob\":\"QUI=\",\"mimeType\":\"x/y\"}}]}", "[blob x/y 2 bytes]", false, false},
        {"{\"content\":[{\"type\":\"novel\",\"x\":1}]}", "{\"type\": \"novel\", \"x\": 1}", true, false},
        {"{\"content\":[],\"isError\":true}", "", false, true},
        {"{\"content\":[],\"structuredContent\":{\"a\":1}}", NULL, true, false},
        {"{\"structuredContent\":[1,2]}", NULL, true, false},
        {"{\"content\":[{\"type\":\"text\",\"text\":\"{\\\"a\\\": 1}\"}],\"structuredContent\":{\"a\":1}}", NULL, true, false},
        {"{\"content\":[{\"type\":\"text\",\"text\":\"sunny\"}],\"structuredContent\":{\"result\":\"sunny\"}}", "sunny", false, false},
        {"{\"content\":[{\"type\":\"text\",\"text\":\"[1]\"}],\"structuredContent\":{\"result\":[1]}}", NULL, true, false},
        {"{\"content\":[{\"type\":\"text\",\"text\":\"sunny\"}],\"structuredContent\":{\"t\":21}}", "sunny\n{\"t\": 21}", false, false},
        {"{\"content\":[{\"type\":\"text\",\"text\":\"{\\\"a\\\": 1}\"}],\"structuredContent\":{\"a\":2}}", "{\"a\": 1}\n{\"a\": 2}", false, false},
        {"{\"resultType\":\"complete\",\"_meta\":{}}", "", false, false},
        {"{\"toolResult\":\"old\"}", NULL, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guard_case c;
        char text[1024];
        snprintf(text, sizeof text, FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"result\":%s}"), cases[i].result);
        case_parse(&c, text);
        expect_kinds(&c, "CR");
        const struct gd_event *e = &c.traj.events[1];
        if (cases[i].text)
            expect_str(e->text, cases[i].text);
        if ((e->payload != NULL) != cases[i].payload || e->is_error != cases[i].error)
            fail_msg("%s", cases[i].result);
        case_free(&c);
    }
}

static void test_mci(void **state)
{
    (void)state;
    struct guard_case c;
    case_parse(&c, "{\"mci\":[[\"User\",\"Client\",\"user\",\"Query: weather in Oslo\",\"consent\"],"
                   "{\"sender\":\"client\",\"recipient\":\"weather\",\"data_subject\":\"user\",\"information_type\":"
                   "\"Function request {\\\"name\\\": \\\"get_weather\\\", \\\"arguments\\\": {\\\"city\\\": \\\"Oslo\\\"}}\","
                   "\"transmission_principle\":\"necessity\"},"
                   "{\"sender\":\"weather\",\"recipient\":\"client\",\"subject\":\"user\",\"type\":\"{\\\"t\\\":3}\",\"principle\":\"service\"},"
                   "[\"client\",\"mailer\",\"user\",\"function parameters: address\",\"none\"],"
                   "[\"assistant\",\"the user\",\"user\",\"It is 3 degrees\",\"transparency\"]]}");
    expect_kinds(&c, "UCRCA");
    const struct gd_event *e = c.traj.events;
    expect_str(e[0].text, "Query: weather in Oslo");
    expect_str(e[0].principle, "consent");
    expect_str(e[1].name, "get_weather");
    assert_non_null(gd_json_get(e[1].payload, "city"));
    expect_str(e[1].recipient, "weather");
    assert_int_equal(e[2].call, 1);
    assert_non_null(e[2].payload);
    expect_str(e[3].name, "mailer");
    expect_str(e[3].text, "function parameters: address");
    expect_str(e[4].principle, "transparency");
    assert_int_equal(c.traj.phase, GD_PHASE_RESPONSE);
    case_free(&c);
}

static void test_errors_name_the_place(void **state)
{
    (void)state;
    const struct {
        const char *request, *message;
        int code;
    } cases[] = {
        {"[]", "the request must be an object", GD_EFIELD},
        {"{}", "exactly one of 'messages', 'frames' and 'mci'", GD_EFIELD},
        {"{\"messages\":[],\"frames\":[]}", "exactly one of", GD_EFIELD},
        {"{\"messages\":null}", "exactly one of", GD_EFIELD},
        {"{\"messages\":{}}", "'messages' must be an array", GD_EFIELD},
        {"{\"frames\":3}", "'frames' must be an array", GD_EFIELD},
        {"{\"mci\":\"x\"}", "'mci' must be an array", GD_EFIELD},
        {"{\"messages\":[]}", "nothing to judge", GD_EFIELD},
        {"{\"frames\":[]}", "nothing to judge", GD_EFIELD},
        {MESSAGES(U), "nothing to judge", GD_EFIELD},
        {MESSAGES("3"), "messages[0] must be an object", GD_EFIELD},
        {MESSAGES("{}"), "messages[0].role", GD_EFIELD},
        {MESSAGES(U ",{\"role\":\"wizard\",\"content\":\"x\"}"), "messages[1].role must be system", GD_EFIELD},
        {MESSAGES("{\"role\":\"user\",\"content\":3}"), "messages[0].content must be a string", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":{}}"), "messages[0].tool_calls must be an array", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[1]}"), "messages[0].tool_calls[0] must be an object", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{}]}"), "messages[0].tool_calls[0].function must be an object", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}"), "messages[0].tool_calls[0].function.name", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":1}}]}"), "messages[0].tool_calls[0].function.name", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":[]}}]}"),
         "messages[0].tool_calls[0].function.arguments must be a string or an object, is an array", GD_EFIELD},
        {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":3,\"function\":{\"name\":\"f\"}}]}"), "messages[0].tool_calls[0].id", GD_EFIELD},
        {MESSAGES("{\"role\":\"tool\",\"tool_call_id\":3,\"content\":\"\"}"), "messages[0].tool_call_id", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"tools\":{}}", "tools must be an array", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"tools\":[{\"name\":\"a\"},{}]}", "tools[1].name", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"tools\":[{\"type\":\"function\",\"function\":{}}]}", "tools[0].function.name", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"tools\":[{\"name\":\"a\",\"description\":[]}]}", "tools[0].description", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"phase\":\"request\"}", "'phase' is request, but", GD_EFIELD},
        {"{\"messages\":[" CALLS(CALL("a", "f")) "],\"phase\":\"response\"}", "'phase' is response, but", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"phase\":\"maybe\"}", "'phase' must be", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"phase\":1}", "phase", GD_EFIELD},
        {"{\"messages\":[" SAY("x") "],\"server\":1}", "server", GD_EFIELD},
        {FRAMES("1"), "frames[0] must be an object", GD_EFIELD},
        {FRAMES("{}"), "frames[0] must have exactly one of", GD_EFIELD},
        {FRAMES("{\"method\":\"x\",\"result\":{}}"), "frames[0] must have exactly one of", GD_EFIELD},
        {FRAMES("{\"role\":\"user\",\"content\":\"a\",\"method\":\"tools/call\"}"), "frames[0] must have exactly one of", GD_EFIELD},
        {FRAMES("{\"id\":1,\"result\":{},\"error\":{}}"), "frames[0] must have exactly one of", GD_EFIELD},
        {FRAMES("{\"id\":1,\"method\":\"tools/call\"}"), "frames[0].params must be an object", GD_EFIELD},
        {FRAMES("{\"id\":1,\"method\":\"tools/call\",\"params\":{}}"), "frames[0].params.name", GD_EFIELD},
        {FRAMES("{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"f\",\"arguments\":3}}"), "frames[0].params.arguments", GD_EFIELD},
        {FRAMES("{\"id\":{},\"method\":\"tools/call\",\"params\":{\"name\":\"f\"}}"), "frames[0].id", GD_EFIELD},
        {FRAMES("[" U ",{\"id\":1,\"method\":7}]"), "frames[0][1].method", GD_EFIELD},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"error\":\"x\"}"), "frames[1].error must be an object", GD_EFIELD},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"result\":{\"content\":{}}}"), "frames[1].result.content", GD_EFIELD},
        {FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"result\":{\"isError\":1}}"), "frames[1].result.isError", GD_EFIELD},
        {FRAMES("{\"id\":1,\"method\":\"tools/list\"},{\"id\":1,\"result\":{\"tools\":[{\"name\":3}]}}"), "frames[1].result.tools[0].name", GD_EFIELD},
        {"{\"mci\":[[\"a\",\"b\",\"c\",\"d\"]]}", "mci[0] must have five elements, has 4", GD_EFIELD},
        {"{\"mci\":[[\"a\",\"b\",\"c\",4,\"e\"]]}", "mci[0][3] must be a string", GD_EFIELD},
        {"{\"mci\":[{\"sender\":\"a\"}]}", "mci[0].recipient must be a string, is missing", GD_EFIELD},
        {"{\"mci\":[7]}", "mci[0] must be an array or an object", GD_EFIELD},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct guard_case c;
        case_parse(&c, cases[i].request);
        if (c.rc != cases[i].code || c.err.code != cases[i].code || !strstr(c.err.msg, cases[i].message))
            fail_msg("%s: %d '%s', not '%s'", cases[i].request, c.rc, c.err.msg, cases[i].message);
        case_free(&c);
    }
}

static void test_duplicate_keys(void **state)
{
    (void)state;
    const char *const refused[] = {
        "{\"messages\":[" SAY("x") "],\"messages\":[" SAY("y") "]}",
        "{\"mode\":1,\"mode\":2,\"messages\":[" SAY("x") "]}",
        MESSAGES("{\"role\":\"user\",\"role\":\"assistant\",\"content\":\"x\"}"),
        MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"id\":\"b\",\"function\":{\"name\":\"f\"}}]}"),
        MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"name\":\"g\"}}]}"),
        MESSAGES("{\"role\":\"assistant\",\"function_call\":{\"name\":\"f\",\"\\u006eame\":\"g\"}}"),
        FRAMES("{\"id\":1,\"id\":2,\"method\":\"tools/call\",\"params\":{\"name\":\"f\"}}"),
        FRAMES("{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"f\",\"name\":\"g\"}}"),
        "{\"mci\":[{\"sender\":\"a\",\"sender\":\"b\",\"recipient\":\"c\",\"subject\":\"\",\"type\":\"\",\"principle\":\"\"}]}",
    };
    const char *const flagged[] = {
        MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"a\":2}}}]}"),
        MESSAGES("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1,\\\"a\\\":2}\"}}]}"),
        MESSAGES("{\"role\":\"tool\",\"content\":\"{\\\"a\\\":{\\\"b\\\":1,\\\"b\\\":1}}\"}"),
        MESSAGES("{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"text\":\"b\"}]}"),
        "{\"messages\":[" SAY("x") "],\"tools\":[{\"name\":\"a\",\"name\":\"b\"}]}",
        "{\"messages\":[" SAY("x") "],\"tools\":[{\"name\":\"a\",\"parameters\":{\"type\":1,\"type\":2}}]}",
        FRAMES("{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"a\":2}}}"),
        FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"result\":{\"content\":[],\"content\":[]}}"),
        FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"result\":{\"structuredContent\":{\"a\":1,\"a\":1}}}"),
        FRAMES(RPC_CALL("1", "f", "{}") ",{\"id\":1,\"error\":{\"code\":1,\"code\":2,\"message\":\"\"}}"),
    };
    const char *const clean[] = {
        "{\"metadata\":{\"a\":1,\"a\":2},\"messages\":[" SAY("x") "]}", /* not looked at */
        MESSAGES("{\"role\":\"tool\",\"content\":\"{\\\"a\\\":1,\\\"a\\\":2\"}"), /* no JSON */
    };
    struct guard_case c;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        case_parse(&c, refused[i]);
        if (c.rc != GD_EFIELD || !strstr(c.err.msg, "more than once"))
            fail_msg("%s: %d %s", refused[i], c.rc, c.err.msg);
        case_free(&c);
    }
    for (size_t i = 0; i < sizeof flagged / sizeof flagged[0]; i++) {
        case_parse(&c, flagged[i]);
        if (c.rc != GD_OK || !(c.traj.flags & GD_TRAJ_F_DUPKEY))
            fail_msg("%s: %d %s", flagged[i], c.rc, c.err.msg);
        case_free(&c);
    }
    for (size_t i = 0; i < sizeof clean / sizeof clean[0]; i++) {
        case_parse(&c, clean[i]);
        if (c.rc != GD_OK || c.traj.flags != 0)
            fail_msg("%s: %d %s", clean[i], c.rc, c.err.msg);
        case_free(&c);
    }
    case_parse(&c, MESSAGES("{\"role\":\"tool\",\"content\":\"a \\ud83d b\"}"));
    assert_int_equal(c.traj.flags, GD_TRAJ_F_SURROGATE);
    case_free(&c);
}

/* Limits at the limit and one above. */
static void test_limits(void **state)
{
    (void)state;
    char *text = malloc(1 << 20);
    assert_non_null(text);
    for (int extra = 0; extra < 2; extra++) {
        struct guard_case c;
        size_t n = (size_t)sprintf(text, "{\"messages\":[");
        for (int i = 0; i < GD_EVENTS_MAX + extra; i++)
            n += (size_t)sprintf(text + n, "%s" SAY("x"), i ? "," : "");
        sprintf(text + n, "]}");
        case_parse(&c, text);
        assert_int_equal(c.rc, extra ? GD_ELIMIT : GD_OK);
        case_free(&c);
        n = (size_t)sprintf(text, "{\"messages\":[" SAY("x") "],\"tools\":[");
        for (int i = 0; i < GD_TOOLS_MAX + extra; i++)
            n += (size_t)sprintf(text + n, "%s{\"name\":\"t%d\"}", i ? "," : "", i);
        sprintf(text + n, "]}");
        case_parse(&c, text);
        assert_int_equal(c.rc, extra ? GD_ELIMIT : GD_OK);
        case_free(&c);
        n = (size_t)sprintf(text, "{\"frames\":[" SAY("x"));
        for (int i = 1; i < 2 * GD_EVENTS_MAX + extra; i++)
            n += (size_t)sprintf(text + n, ",{\"method\":\"m\",\"id\":%d}", i);
        sprintf(text + n, "]}");
        case_parse(&c, text);
        assert_int_equal(c.rc, extra ? GD_ELIMIT : GD_OK);
        case_free(&c);
    }
    free(text);
}

/* Strings read as JSON share one budget; what is over it stays text. */
static void test_embedded_json_budget(void **state)
{
    (void)state;
    char *text = malloc(1 << 20);
    assert_non_null(text);
    struct guard_case c;
    size_t n = (size_t)sprintf(text, "{\"messages\":[");
    for (int i = 0; i < 3; i++) {
        n += (size_t)sprintf(text + n, "%s{\"role\":\"tool\",\"content\":\"[0", i ? "," : "");
        for (int k = 0; k < 20000; k++)
            n += (size_t)sprintf(text + n, ",0");
        n += (size_t)sprintf(text + n, "]\"}");
    }
    /* What arguments may have is kept from results; arguments that are not read leave a doubt. */
    sprintf(text + n, "]}");
    case_parse(&c, text);
    expect_kinds(&c, "RRR");
    assert_non_null(c.traj.events[0].payload);
    assert_non_null(c.traj.events[1].payload);
    assert_null(c.traj.events[2].payload);
    assert_int_equal(c.traj.flags, 0);
    case_free(&c);
    for (int values = 100; values <= 20000; values += 19900) {
        size_t end = n + (size_t)sprintf(text + n, ",{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{"
                                                   "\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1,\\\"a\\\":[0");
        for (int k = 0; k < values; k++)
            end += (size_t)sprintf(text + end, ",0");
        sprintf(text + end, "]}\"}}]}]}");
        case_parse(&c, text);
        expect_kinds(&c, "RRRC");
        assert_int_equal(c.traj.flags, values == 100 ? GD_TRAJ_F_DUPKEY : GD_TRAJ_F_DOUBT);
        case_free(&c);
    }
    free(text);
}

static const char everything[] =
    "{\"server\":\"s\",\"tools\":[{\"name\":\"a\"}],\"frames\":[{\"id\":1,\"method\":\"tools/list\"},{\"id\":1,\"result\":{\"tools\":["
    "{\"name\":\"a\",\"description\":\"d\",\"inputSchema\":{\"properties\":{\"x\":{\"type\":\"string\"}}}}]}}," U ","
    RPC_CALL("2", "a", "{\"x\":[1,2,{\"y\":null}]}") ",{\"id\":2,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"{\\\"k\\\": [1,2]}\"},"
    "{\"type\":\"text\",\"text\":\"b\"}],\"structuredContent\":{\"z\":1}}}," CALLS(CALL("q", "g")) "," RESULT("q", "r") "," SAY("x") "]}";

/* Each budget either works or fails with GD_ENOMEM; from the first that works all do. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct gd_arena json;
    const struct gd_json *v = NULL;
    bool worked = false;
    gd_arena_init(&json, GD_REQUEST_ARENA_BYTES);
    assert_int_equal(gd_json_parse(&json, gd_str_from(everything), &GD_JSON_REQUEST_LIMITS, &v, NULL), GD_OK);
    for (size_t budget = 0; budget < 200000; budget += 97) {
        struct gd_arena a;
        struct gd_trajectory t;
        struct gd_err err = {0};
        gd_arena_init(&a, budget);
        const int rc = gd_trajectory_parse(&a, v, &t, &err);
        if (rc != GD_OK && (rc != GD_ENOMEM || worked || err.code != GD_ENOMEM))
            fail_msg("budget %zu: %d %s", budget, rc, err.msg);
        worked = worked || rc == GD_OK;
        gd_arena_free(&a);
    }
    assert_true(worked);
    gd_arena_free(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_legacy_functions),
        cmocka_unit_test(test_matching),
        cmocka_unit_test(test_ids_of_both_directions),
        cmocka_unit_test(test_no_result_is_hidden),
        cmocka_unit_test(test_decoys),
        cmocka_unit_test(test_phase_and_step),
        cmocka_unit_test(test_frames_both_eras),
        cmocka_unit_test(test_unasked_responses),
        cmocka_unit_test(test_multi_round_trip),
        cmocka_unit_test(test_tool_results),
        cmocka_unit_test(test_mci),
        cmocka_unit_test(test_errors_name_the_place),
        cmocka_unit_test(test_duplicate_keys),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_embedded_json_budget),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
