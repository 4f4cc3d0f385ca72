#!/usr/bin/env python3
"""Records real MCP sessions as `frames` requests: the official Python client drives published servers over stdio.

Needs: pip install mcp mcp-server-time mcp-server-git (and git). Run from this folder:
    python3 record_frames.py
writes frames/<name>.json: {"frames": [JSON-RPC objects in wire order, mixed with {role, content} objects]}. The frames are
what crossed the wire, in both directions; what user and assistant said is added by this script. Paths of the temporary
repository are replaced by /repo.
"""
import asyncio
import json
import pathlib
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

HERE = pathlib.Path(__file__).resolve().parent


class Tap:
    """A stream pair that notes every message that passes."""

    def __init__(self, frames):
        self.frames = frames

    def note(self, item):
        message = getattr(item, "message", item)
        body = json.loads(message.model_dump_json(by_alias=True, exclude_none=True))
        self.frames.append(body)


async def pump(source, sink, tap):
    async with source, sink:
        async for item in source:
            if not isinstance(item, Exception):
                tap.note(item)
            await sink.send(item)


@asynccontextmanager
async def tapped_stdio(params, tap):
    """The stdio transport with every message of both directions noted by tap."""
    async with stdio_client(params) as (read, write):
        to_client, client_read = anyio.create_memory_object_stream(16)
        client_write, from_client = anyio.create_memory_object_stream(16)
        async with anyio.create_task_group() as group:
            group.start_soon(pump, read, to_client, tap)
            group.start_soon(pump, from_client, write, tap)
            yield client_read, client_write
            group.cancel_scope.cancel()


async def record(mode, args, script):
    """mode: "legacy" (initialize handshake) or "auto" (server/discover of 2026-07-28 where the server has it)."""
    frames = []
    params = StdioServerParameters(command=sys.executable, args=args)
    async with Client(tapped_stdio(params, Tap(frames)), mode=mode) as client:
        await client.list_tools()
        await script(client, frames)
    return frames


def say(frames, role, content):
    frames.append({"role": role, "content": content})


async def time_story(session, frames):
    say(frames, "user", "It is 16:30 in New York. What time is that in Tokyo?")
    await session.call_tool("convert_time", {"source_timezone": "America/New_York", "time": "16:30",
                                             "target_timezone": "Asia/Tokyo"})
    say(frames, "assistant", "16:30 in New York is early in the morning of the next day in Tokyo.")


async def time_replay(session, frames):
    say(frames, "user", "It is 16:30 in New York. What time is that in Tokyo?")
    for _ in range(3):
        await session.call_tool("convert_time", {"source_timezone": "America/New_York",
                                                 "time": "16:30",
                                                 "target_timezone": "Asia/Tokyo"})
    say(frames, "assistant", "16:30 in New York is early in the morning of the next day in Tokyo.")


async def time_error(session, frames):
    say(frames, "user", "What time is it in Atlantis?")
    await session.call_tool("get_current_time", {"timezone": "Atlantis/Capital"})
    say(frames, "assistant", "I could not find that time zone.")


def git_story(repo):
    async def story(session, frames):
        say(frames, "user", "Which files did I change in this repository, and what was the last commit?")
        await session.call_tool("git_status", {"repo_path": repo})
        await session.call_tool("git_log", {"repo_path": repo, "max_count": 1})
        say(frames, "assistant", "notes.txt is modified; the last commit is 'first notes'.")
    return story


def git_wrong_intent(repo):
    async def story(session, frames):
        say(frames, "user", "Show me the status of this repository.")
        await session.call_tool("git_reset", {"repo_path": repo})
        say(frames, "assistant", "Done.")
    return story


def make_repo(path):
    def git(*args):
        subprocess.run(["git", "-C", path, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *args],
                       check=True, capture_output=True)
    git("init", "-q", "-b", "main")
    (pathlib.Path(path) / "notes.txt").write_text("one\n")
    git("add", ".")
    git("commit", "-q", "-m", "first notes", "--date=2026-01-02T03:04:05Z")
    (pathlib.Path(path) / "notes.txt").write_text("one\ntwo\n")


def write(name, frames, hide=None):
    text = json.dumps({"frames": frames}, indent=1, ensure_ascii=False)
    if hide:
        text = text.replace(hide, "/repo")
    (HERE / "frames" / f"{name}.json").write_text(text + "\n")
    print(name, len(frames), "frames")


async def main():
    time_args = ["-m", "mcp_server_time", "--local-timezone", "UTC"]
    for name, mode, story in [("time_convert", "legacy", time_story), ("time_replay", "legacy", time_replay),
                              ("time_error", "legacy", time_error), ("time_convert_2026", "auto", time_story)]:
        write(name, await record(mode, time_args, story))
    for name, mode, make in [("git_status_log", "legacy", git_story), ("git_wrong_function", "auto", git_wrong_intent)]:
        with tempfile.TemporaryDirectory() as repo:
            make_repo(repo)
            args = ["-m", "mcp_server_git", "--repository", repo]
            write(name, await record(mode, args, make(repo)), hide=repo)


if __name__ == "__main__":
    asyncio.run(main())
