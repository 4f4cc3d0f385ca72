/* requests.h - the requests that the tests of this directory send. */
#ifndef GUARDIAN_TESTS_FAULTS_REQUESTS_H
#define GUARDIAN_TESTS_FAULTS_REQUESTS_H

#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":"    \
    "\"Weather of a city now\",\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{"     \
    "\"type\":\"string\"}},\"required\":[\"city\"]}}},{\"type\":\"function\",\"function\":{"       \
    "\"name\":\"send_mail\",\"description\":\"Sends a mail\",\"parameters\":{\"type\":"            \
    "\"object\",\"properties\":{\"to\":{\"type\":\"string\"},\"text\":{\"type\":\"string\"}}}}}]"
#define USER "{\"role\":\"user\",\"content\":\"What is the weather in B\\u00e9rlin at 7?\"}"
#define CALL                                                                                       \
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":"            \
    "\"function\",\"function\":{\"name\":\"get_weather\",\"arguments\":\"{\\\"city\\\": "          \
    "\\\"B\\u00e9rlin\\\", \\\"hour\\\": 7}\"}}]}"
#define RESULT "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"{\\\"temp_c\\\": 21}\"}"
#define ANSWER "{\"role\":\"assistant\",\"content\":\"It is 21 degrees, 7 more than on day 23.\"}"
#define PENDING "{" TOOLS ",\"session\":\"s1\",\"messages\":[" USER "," CALL "]}"
#define ANSWERED "{" TOOLS ",\"messages\":[" USER "," CALL "," RESULT "," ANSWER "]}"
#define MCI                                                                                        \
    "{\"mci\":[[\"user\",\"client\",\"user\",\"request for the weather\",\"consent\"],"            \
    "[\"client\",\"get_weather\",\"user\",\"function request\",\"as asked\"]]}"
#define FRAMES                                                                                     \
    "{\"frames\":[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"},{\"jsonrpc\":\"2.0\","  \
    "\"id\":1,\"result\":{\"tools\":[{\"name\":\"get_weather\",\"inputSchema\":{\"type\":"         \
    "\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}}]}},{\"role\":\"user\","          \
    "\"content\":\"Weather in Oslo?\"},{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/call\","   \
    "\"params\":{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Oslo\"}}},{\"jsonrpc\":"       \
    "\"2.0\",\"id\":2,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"12 "                  \
    "degrees\"}],\"isError\":false}}]}"
#define BATCH "{\"items\":[" PENDING "," MCI ",{\"messages\":[]}," ANSWERED "]}"

#endif
