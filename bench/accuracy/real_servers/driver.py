"""Runs sessions against the real servers, each call for real, and turns them into cases for evaluate.py.

All servers are started once, over stdio with the official client; the workspace is put back before every
session. Paths of the workspace become those of the story, in both directions.
"""

import copy
import hashlib
import json
import os
import tempfile
from contextlib import AsyncExitStack

import workspace
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from steps import Call, Say, Together

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 120  # seconds for one answer; the first one of a server on a busy machine takes long

# server: (environment, program, arguments). {root} and {proxy} are filled in.
SERVERS = {
    "time": ("v2", "mcp-server-time", ["--local-timezone", "Europe/Lisbon"]),
    "git": ("v2", "mcp-server-git", []),
    "fetch": ("v2", "mcp-server-fetch", ["--proxy-url", "{proxy}"]),
    "excel": ("v2", "excel-mcp-server", ["stdio", "--allow-dir", "{root}"]),
    "files": ("v2", "filesystem-mcp", ["{root}"]),
    "sqlite": ("v1", "mcp-server-sqlite", ["--db-path", "{root}/shop.db"]),
    "calculator": ("v1", "mcp-server-calculator", []),
    "todo": ("v1", "todo-mcp-server-kit", ["--project-root", "{root}"]),
    "subnet": ("v1", "subnet-calculator-mcp", []),
}

# The Excel server has 48 tools; most clients let their user choose some of them.
EXCEL = (
    "create_workbook describe_workbook import_csv export_csv create_sheet rename_sheet copy_sheet"
    " delete_sheet read_range write_range clear_range sort_range find_cells replace_cells set_note"
    " insert_rows_or_columns"
).split()

# lookalike: (the tool it resembles, its text, whether it is an error). Offered by the companion.
LOOKALIKES = {
    "git_statuss": ("git_status", "", False),
    "git-log": ("git_log", "Error: handler not found", True),
    "getCurrentTime": ("get_current_time", "{}", False),
    "convert_times": ("convert_time", "", False),
    "readQuery": ("read_query", "[]", False),
    "read_query_": ("read_query", "Error: connection closed", True),
    "search_todo": ("search_todos", "", False),
    "readFile": ("read_file", "null", False),
    "read_ranges": ("read_range", '{"values": []}', False),
    "calculator": ("calculate", "ok", False),
    "fetch_": ("fetch", "", False),
    "list_directories": ("list_directory", "Error: not implemented", True),
}
STYLES = ("%(tool)s", "%(server)s__%(tool)s", "mcp__%(server)s__%(tool)s", "%(tool)s")


class Broken(Exception):
    """A server or a session does not do what it must."""


def reasons(e):
    """The exceptions that groups of groups hold, as text: the clients wrap whatever goes wrong in them."""
    if isinstance(e, BaseExceptionGroup):
        return [text for inner in e.exceptions for text in reasons(inner)]
    return [str(e) if isinstance(e, Broken) else repr(e)]


def style_of(base):
    return STYLES[hashlib.sha256(base.encode()).digest()[0] % len(STYLES)]


class Tools:
    """All tools of all servers: what they are and how to call them."""

    def __init__(self, envs, work):
        self.envs, self.work = envs, work
        self.root, self.template = os.path.join(work, "world"), os.path.join(work, "template")
        self.of, self.schema, self.clients, self.called = {}, {}, {}, {}

    def out(self, text):
        return text.replace(os.path.realpath(self.root), workspace.HOME).replace(self.root, workspace.HOME)

    def inward(self, value):
        return json.loads(json.dumps(value).replace(workspace.HOME, self.root))

    async def start(self, stack):
        os.makedirs(self.root)
        proxy, log = workspace.serve_pages(), os.path.join(self.work, "servers.log")
        self.log = stack.enter_context(open(log, "a", encoding="utf-8"))
        for name, (env, program, words) in SERVERS.items():
            words = [w.format(root=self.root, proxy=proxy) for w in words]
            await self.add(stack, name, os.path.join(self.envs, env, "bin", program), words)
        listed = os.path.join(self.work, "lookalikes.json")
        with open(listed, "w", encoding="utf-8") as f:
            json.dump([self.lookalike(n) for n in LOOKALIKES], f)
        python = os.path.join(self.envs, "v2", "bin", "python")
        await self.add(stack, "companion", python, [os.path.join(HERE, "companion.py"), self.root, listed])
        workspace.make(self.root)
        for tool, args in workspace.BOOK_CALLS:
            text, error = await self.call(tool, args)
            if error:
                raise Broken("making the workbook: %s: %s" % (tool, text))
        os.rename(self.root, self.template)
        os.makedirs(self.root)

    def lookalike(self, name):
        like, text, error = LOOKALIKES[name]
        real = self.schema[like]
        return {
            "name": name,
            "description": real["description"],
            "inputSchema": real["parameters"],
            "text": text,
            "error": error,
        }

    async def add(self, stack, name, program, words):
        # The library behind fetch runs npm install, from the network, wherever it finds node: it
        # shall not find it.
        env = {**workspace.GIT, **({"PATH": self.work} if name == "fetch" else {})}
        where = StdioServerParameters(command=program, args=words, env=env, cwd=self.work)
        try:
            client = Client(stdio_client(where, errlog=self.log), read_timeout_seconds=LIMIT)
            self.clients[name] = await stack.enter_async_context(client)
            tools = (await self.clients[name].list_tools()).tools
        except Exception as e:
            raise Broken("server %s does not start: %s" % (name, "; ".join(reasons(e)))) from e
        for tool in tools:
            body = json.loads(tool.model_dump_json(by_alias=True, exclude_none=True))
            if tool.name in self.of:
                raise Broken("%s and %s both have a tool %s" % (name, self.of[tool.name], tool.name))
            self.of[tool.name] = name
            self.schema[tool.name] = {
                "name": tool.name,
                "description": body.get("description", ""),
                "parameters": body["inputSchema"],
            }

    async def call(self, tool, args):
        """(text, error) of a real call"""
        if tool not in self.of:
            raise Broken("no server has a tool %s" % tool)
        server = self.of[tool]
        try:
            result = await self.clients[server].call_tool(tool, self.inward(args))
        except MCPError as e:
            return self.out("Error: %s" % e), True
        self.called[server] = self.called.get(server, 0) + 1
        texts = [c.text for c in result.content if c.type == "text"]
        return self.out("\n".join(texts)), bool(result.is_error)

    def offered(self, session):
        """Names of the tools that a session shows."""
        names = [t for t, s in self.of.items() if s in session.servers and (s != "excel" or t in EXCEL)]
        return list(dict.fromkeys([*names, *session.offer]))


class Recording:
    """One session as it happens: messages, and a case for every judged prefix."""

    def __init__(self, tools, session):
        self.tools, self.session, self.messages, self.results, self.cases = tools, session, [], [], []
        self.offered, self.style = tools.offered(session), style_of(session.base)

    def shown(self, tool):
        like = LOOKALIKES.get(tool, (tool,))[0]
        server = {"companion": "admin"}.get(self.tools.of[like], self.tools.of[like])
        return self.style % {"server": server, "tool": tool}

    def case(self, n, phase):
        s = self.session
        if n < s.at or phase not in s.phases:
            return
        tools = [{**self.tools.schema[t], "name": self.shown(t)} for t in self.offered]
        self.cases.append(
            {
                "id": "%s-%d%s" % (s.id, n, phase[2]),
                "tools": tools,
                "messages": copy.deepcopy(self.messages),
                "label": s.label,
                "phase": phase,
                "domain": s.domain,
                "source": "real-servers",
            }
        )

    def ids(self, n, count):
        text = "%s %d" % (self.session.id, n)
        return [
            "call_" + hashlib.sha256(("%s %d" % (text, k)).encode()).hexdigest()[:12] for k in range(count)
        ]

    async def run(self):
        for n, step in enumerate(self.session.steps):
            if isinstance(step, Say):
                text = step.text(self.results) if callable(step.text) else step.text
                self.messages.append({"role": step.role, "content": text})
                if step.role == "assistant":
                    self.case(n, "response")
            else:
                await self.calls(n, step.calls if isinstance(step, Together) else [step])
        return self

    async def calls(self, n, calls):
        ids = self.ids(n, len(calls))
        for c in calls:
            if c.tool not in self.offered:
                raise Broken("step %d calls %s, which is not offered" % (n, c.tool))
        made = [
            {
                "id": i,
                "type": "function",
                "function": {"name": self.shown(c.tool), "arguments": json.dumps(c.args, ensure_ascii=False)},
            }
            for i, c in zip(ids, calls)
        ]
        self.messages.append({"role": "assistant", "content": None, "tool_calls": made})
        self.case(n, "request")
        for i, c in zip(ids, calls):
            text = await self.one(n, c)
            self.messages.append({"role": "tool", "tool_call_id": i, "content": text})
        self.case(n, "response")

    async def one(self, n, c: Call):
        text, error = await self.tools.call(c.tool, c.args)
        where = "step %d: %s" % (n, c.tool)
        if c.error is not None and error != c.error:
            raise Broken(
                "%s: an error was %s, the result is %.300s"
                % (where, "wanted" if c.error else "not wanted", text)
            )
        if c.has not in text:
            raise Broken("%s: %r is not in the result %.300s" % (where, c.has, text))
        self.results.append(text)
        return text


async def record(tools, session):
    workspace.reset(tools.root, tools.template)
    for words in session.setup:
        workspace.git(os.path.join(tools.root, "site"), *words)
    return await Recording(tools, session).run()


async def record_all(envs, sessions, failures):
    """[Recording] of all sessions; what goes wrong is added to failures. Also {server: calls}."""
    done = []
    with tempfile.TemporaryDirectory(prefix="real-servers-") as work:
        tools = Tools(envs, work)
        async with AsyncExitStack() as stack:
            await tools.start(stack)
            for session in sessions:
                try:
                    done.append(await record(tools, session))
                except (Broken, MCPError, RuntimeError, LookupError, ValueError) as e:
                    failures.append("%s: %s" % (session.id, reasons(e)[0]))
    return done, tools.called
