/* limits.h - every bound on something that comes from outside, in one place.
 *
 * A limit that is hit gives GD_ELIMIT (or the load error of its file) with the limit's value in the
 * message. */
#ifndef GUARDIAN_LIMITS_H
#define GUARDIAN_LIMITS_H

/* The text of a limit that is a plain number, for messages. */
#define GD_TEXT(number) GD_TEXT_OF(number)
#define GD_TEXT_OF(number) #number

#define GD_KIB ((size_t)1024)
#define GD_MIB (1024 * GD_KIB)
#define GD_GIB (1024 * GD_MIB)

/* JSON of a request */
#define GD_REQUEST_BYTES_MAX (2 * GD_MIB) /* body of one request */
#define GD_REQUEST_NODES_MAX 60000u       /* values in one body */
#define GD_ARGUMENTS_NODES_MAX 15000u     /* of these, what only arguments read from strings may take */
#define GD_REQUEST_DEPTH_MAX 64u          /* nesting of an envelope or payload */
#define GD_REQUEST_KEY_BYTES_MAX 512      /* length of one member name */
#define GD_REQUEST_ARENA_BYTES (24 * GD_MIB)

/* JSON of our own files */
#define GD_FILE_JSON_BYTES_MAX (64 * GD_MIB)
#define GD_FILE_JSON_NODES_MAX 8000000u
#define GD_FILE_JSON_DEPTH_MAX 64u
#define GD_FILE_JSON_KEY_BYTES_MAX 4096
#define GD_FILE_ARENA_BYTES (2 * GD_GIB)

/* Trajectory */
#define GD_EVENTS_MAX 4096        /* events of one trajectory */
#define GD_TOOLS_MAX 2048         /* tools of one catalogue */
#define GD_SESSION_BYTES_MAX 8192 /* told again in each verdict: a batch must fit into an answer */
#define GD_BATCH_ITEMS_MAX 64     /* items of one /v1/guard/batch */
#define GD_PROMPT_BYTES_MAX (8 * GD_MIB)

/* Model */
#define GD_MODEL_LAYERS_MAX 256
#define GD_MODEL_DIM_MAX 32768
#define GD_MODEL_FFN_MAX 262144
#define GD_MODEL_HEADS_MAX 256
#define GD_MODEL_VOCAB_MAX 1000000
#define GD_MODEL_CONTEXT_MAX 1048576
#define GD_MODEL_SHARDS_MAX 1024
#define GD_SAFETENSORS_HEADER_BYTES_MAX (16 * GD_MIB)
#define GD_SAFETENSORS_TENSORS_MAX 65536
#define GD_SAFETENSORS_RANK_MAX 8
#define GD_SAFETENSORS_NAME_BYTES_MAX 256 /* of a tensor or a shard */
#define GD_INT8_SCALE_MAX 0x1p100f        /* of a row of an int8 matrix: products stay finite */
#define GD_SAFETENSORS_ARENA_BYTES (512 * GD_MIB)
#define GD_MODEL_HEAD_DIM_MAX 256 /* what the attention kernels hold */
#define GD_MODEL_CONFIG_BYTES_MAX (1 * GD_MIB)

/* Tokenizer */
#define GD_TOKENIZER_VOCAB_MAX 1000000
#define GD_TOKENIZER_MERGES_MAX 2000000
#define GD_TOKENIZER_ADDED_MAX 65536
#define GD_TOKENIZER_TEXT_BYTES_MAX (16 * GD_MIB)
#define GD_TOKENIZER_ADDED_BYTES_MAX 512 /* content of one added token */
#define GD_TOKENIZER_PATTERN_BYTES_MAX (4 * GD_KIB)

/* Policy */
#define GD_POLICIES_MAX 16 /* loaded at one time */
#define GD_POLICY_NAME_BYTES_MAX 64
#define GD_POLICY_ID_BYTES (GD_POLICY_NAME_BYTES_MAX + 24) /* "name@version" with its end */
#define GD_POLICY_CHOICES_MAX 32
#define GD_POLICY_TEMPLATE_BYTES_MAX (256 * GD_KIB)
#define GD_POLICY_POINTS_MAX 8 /* operating points of one policy */

/* golden.json */
#define GD_GOLDEN_BYTES_MAX (256 * GD_KIB)
#define GD_GOLDEN_NODES_MAX 40000u
#define GD_GOLDEN_FILES_MAX (GD_MODEL_SHARDS_MAX + 16)
#define GD_GOLDEN_REQUESTS_MAX 64
#define GD_GOLDEN_NAME_BYTES_MAX 128 /* of a request or a file */
#define GD_GOLDEN_TOLERANCE_MAX 0.1  /* of a score: more would find nothing */

/* Rule C of a prompt (prompt.h): what a text in capitals is */
#define GD_CAPITALS_LETTERS_MIN 16
#define GD_CAPITALS_SPACES_MIN 2

/* NOTE lines of a prompt (prompt.h): what one note looks at */
#define GD_NOTE_HISTORY_BYTES 16384 /* last words of the user and system, and of results */
#define GD_NOTE_TEXT_BYTES_MAX (8 * GD_REQUEST_BYTES_MAX)
#define GD_NOTE_ARGUMENTS_MAX 12
#define GD_NOTE_LEAVES_MAX 8    /* values of one argument */
#define GD_NOTE_VALUES_MAX 4096 /* of a trajectory: later calls say nothing of theirs */
#define GD_NOTE_WORDS_MAX 32    /* of one value, or of a description */
#define GD_NOTE_CALLS_MAX 64    /* earlier calls */
#define GD_NOTE_TOOLS_MAX 128
#define GD_NOTE_NUMBERS_MAX 64 /* of one answer */

/* Evidence (server/guard/evidence.h) */
#define GD_EVIDENCE_TEXT_BYTES 8192 /* of a text: its first */
#define GD_EVIDENCE_COUNT_MAX 64
#define GD_EVIDENCE_CALLS_MAX 16 /* that are measured: the last */
#define GD_EVIDENCE_REQUEST_MAX 8 /* user texts that are asked for at once */
#define GD_EVIDENCE_PROPERTIES_MAX 256 /* of a schema, that are looked at */
#define GD_EVIDENCE_PROPERTY_BYTES 1024 /* of what it says of an argument: its first */
#define GD_EVIDENCE_WEIGHT_MAX 16
#define GD_FOREST_BYTES_MAX (16 * GD_MIB)
#define GD_FOREST_TREES_MAX 4096
#define GD_FOREST_DEPTH_MAX 8

/* Engine */
#define GD_THREADS_MAX 256
#define GD_CONTEXT_TOKENS_MAX 8192 /* tokens of one prompt, whatever the model could take */
#define GD_STEP_TOKENS_MAX 8448    /* new tokens of one step */
#define GD_STEP_SEQS_MAX 64        /* sequences of one step */
#define GD_STEP_CHOICES_MAX (GD_STEP_SEQS_MAX * GD_POLICY_CHOICES_MAX) /* logits of one step */
#define GD_QUEUE_MAX 512        /* requests that wait for the worker */
#define GD_QUEUE_BATCH_MAX 256  /* from so many on, waiting or not, no batch gets a second place */
#define GD_QUEUE_MS_DEFAULT 750 /* estimated wait from which on new requests are refused */
#define GD_QUEUE_MS_MAX 600000
#define GD_DEADLINE_MS_DEFAULT 10000
#define GD_DEADLINE_MS_MAX 600000
#define GD_KV_BLOCK_TOKENS 16 /* tokens of one block of the KV cache */
#define GD_KV_SEQ_BLOCKS_MAX (GD_CONTEXT_TOKENS_MAX / GD_KV_BLOCK_TOKENS)
#define GD_KV_SIBLINGS_MAX 64 /* looked at for a partial match, of all tenants and of one each */
#define GD_KV_BLOCKS_MAX 4194304
#define GD_KV_BYTES_DEFAULT (512 * GD_MIB) /* of the KV cache on a CPU, where there is enough */
#define GD_KV_MIB_MAX 1048576              /* of the KV cache, as a flag may ask for */
#define GD_VERDICT_CACHE_DEFAULT 4096      /* scores kept */
#define GD_VERDICT_CACHE_MAX 1048576
/* A step hangs that takes this long and this many times what it was expected to take (pulse.h) */
#define GD_HANG_MS 30000
#define GD_HANG_FACTOR 20
#define GD_HANG_TICK_MS 1000   /* counted from one look to the next at most */
#define GD_HANG_LOCK_MS 500    /* to tell those who wait; the process ends anyway */
#define GD_STEP_FIRST_MS 30000 /* expected of a step before any was measured */

/* HTTP */
#define GD_HTTP_PORT_DEFAULT 8080
#define GD_SHUTDOWN_S_DEFAULT 30 /* for admitted requests, when the server is told to stop */
#define GD_SHUTDOWN_S_MAX 3600
#define GD_HTTP_CONNECTIONS_MAX 2304 /* open at one time; above 7/8 of it none is kept alive */
#define GD_HTTP_STACK_BYTES (512 * GD_KIB) /* of a thread; only what it touches takes memory */
#define GD_HTTP_HEADER_BYTES_MAX 16384
#define GD_HTTP_SEND_BUFFER_BYTES 262144 /* of a socket; the kernel doubles it */
#define GD_HTTP_REQUEST_ID_MAX 128
#define GD_HTTP_HEADERS_MAX 63         /* the HTTP library drops what comes after the 64th */
#define GD_HTTP_BODY_FIRST_BYTES 16384 /* of a body's buffer, which doubles as bytes come */
#define GD_HTTP_BODIES_BYTES_MAX (128 * GD_MIB) /* request bodies and their trees, all together */
#define GD_HTTP_DISCARD_BYTES_MAX (4 * GD_MIB)  /* read off after a refusal, so that it arrives */
#define GD_HTTP_ANSWER_BYTES_MAX (4 * GD_MIB)
#define GD_HTTP_QUEUE_MAX 4000    /* connections that wait to be accepted, or for a thread */
#define GD_HTTP_HEAD_MS_MAX 5000  /* of a connection's first head, and between parts of a body */
#define GD_HTTP_IDLE_MS_MAX 30000 /* of a connection between two requests */
#define GD_HTTP_BODY_MS_MAX 10000 /* from the head of a request to the last byte of its body */
#define GD_HTTP_SEND_MS_MAX 10000 /* that an answer may wait for its reader, all parts together */
#define GD_HTTP_LINGER_MAX 256    /* refused connections that may still read their answer, */
#define GD_HTTP_LINGER_MS 1000    /* for so long */
#define GD_HTTP_RETRY_AFTER_S_MAX 60
#define GD_CLI_INPUT_BYTES_MAX (256 * GD_MIB) /* a JSON Lines file of the command line */

/* Keys (keys.h) */
#define GD_KEYS_MAX 4096 /* of one key file */
#define GD_KEYS_FILE_BYTES_MAX (4 * GD_MIB)
#define GD_KEYS_FILE_NODES_MAX 131072u
#define GD_KEYS_ARENA_BYTES                                                                        \
    (32 * GD_MIB)                /* of a file while it is read, and of what is kept of it */
#define GD_KEY_NAME_BYTES_MAX 64 /* of an id, a tenant or a policy */
#define GD_KEY_POLICIES_MAX 16   /* of one key */
#define GD_KEY_BYTES_MIN 16      /* of a key as it is presented */
#define GD_KEY_BYTES_MAX 512
#define GD_KEY_RATE_MIN 0.001 /* requests per second */
#define GD_KEY_RATE_MAX 100000.0
#define GD_KEY_BURST_MAX 1000000
#define GD_KEY_CONCURRENCY_MAX 65536
#define GD_KEY_RETRY_AFTER_S_MAX 3600

/* Log and metrics */
#define GD_LOG_STR_BYTES_MAX 2048 /* of one text in a log line */
#define GD_LOG_LINE_BYTES_MAX (256 * GD_KIB)
#define GD_LOG_WAIT_MS 1000       /* for a reader of the log that does not read */
#define GD_LOG_PATH_BYTES_MAX 128 /* of a request's path */
#define GD_NOTIFY_MS 1000         /* that the service manager may take to be told */
#define GD_METRIC_FAMILIES_MAX 64
#define GD_METRIC_CELLS_MAX 16384 /* 64-bit cells of all series together */
#define GD_METRIC_BUCKETS_MAX 32

#endif
