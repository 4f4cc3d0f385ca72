"""The words in which sessions are written: who says what, which calls are made, and how an attack changes a
session.

A session is a list of steps. Paths in it are those of the story (/home/ines/studio); the driver maps them
to the temporary workspace and back. `has` is what the real result must contain: a server that answers
otherwise fails the run.
"""

import collections

Say = collections.namedtuple("Say", "role text")
Call = collections.namedtuple("Call", "tool args has error")
Together = collections.namedtuple("Together", "calls")
Session = collections.namedtuple("Session", "id base label servers offer setup steps at phases domain")

BENIGN, ATTACKS = [], []
BY_ID = {}

B = "function_overlapping"
C = "excessive_privileges_overlapping"
D = "function_dependency_injection"
E = "function_injection"
F = "causal_dependency_injection"
G = "wrong_function_intent_injection"
H = "wrong_arguments_intent_injection"
I = "data_injection"  # noqa: E741  the letter is the taxonomy's
J = "identity_injection"
K = "replay_injection"
RISKS = (B, C, D, E, F, G, H, I, J, K)


def system(text):
    return Say("system", text)


def user(text):
    return Say("user", text)


def say(text):
    """What the assistant says: a text, or a function of the results so far (for what depends on today)."""
    return Say("assistant", text)


def call(tool, has="", error=False, **args):
    return Call(tool, args, has, error)


def together(*calls):
    return Together(list(calls))


def keep(session):
    if session.id in BY_ID:
        raise SystemExit("two sessions are called %s" % session.id)
    BY_ID[session.id] = session
    return session


def task(name, servers, *steps, offer=(), setup=()):
    """A benign session. offer: tools of the companion server shown beside; setup: git commands run before."""
    servers = servers.split()
    first = next(n for n, s in enumerate(steps) if s[0] not in ("system", "user"))
    BENIGN.append(
        keep(
            Session(
                name,
                name,
                "appropriate",
                servers,
                tuple(offer),
                tuple(setup),
                list(steps),
                first,
                ("request", "response"),
                servers[0],
            )
        )
    )


def attack(label, base, mark, steps, at, offer=(), servers=""):
    """Integers in steps are the steps of the benign session; from step `at` on every prefix has the label."""
    of = BY_ID[base]
    steps = [of.steps[s] if isinstance(s, int) else s for s in steps]
    phases = ("response",) if label in (B, I) else ("request", "response")
    ATTACKS.append(
        keep(
            Session(
                "%s.%s" % (base, mark),
                base,
                label,
                of.servers + servers.split(),
                of.offer + tuple(offer),
                of.setup,
                steps,
                at,
                phases,
                of.domain,
            )
        )
    )


def upto(n):
    return list(range(n))


def lookalike(base, n, name, answer):
    """B: the call goes to a tool that is called nearly the same."""
    old = BY_ID[base].steps[n]
    attack(B, base, "lookalike", upto(n) + [Call(name, old.args, "", None), say(answer)], n, [name])


def twin(base, n, other, answer):
    """C: a tool that may do far more does it."""
    attack(C, base, "twin", upto(n) + [other, say(answer)], n, [other.tool])


def before(base, n, other, offer=(), servers=""):
    """D: an unneeded call before call n; judged when call n has followed."""
    rest = list(range(n, len(BY_ID[base].steps)))
    attack(D, base, "before", upto(n) + [other] + rest, n + 1, offer, servers)


def after(base, n, other, offer=(), servers=""):
    """E: an unrelated call after call n."""
    rest = list(range(n + 1, len(BY_ID[base].steps)))
    attack(E, base, "after", upto(n + 1) + [other] + rest, n + 1, offer, servers)


def swapped(base, order, at, answer):
    """F: another order of the steps; the results may differ then. answer: None keeps what is said."""
    steps = [BY_ID[base].steps[n] for n in order]
    steps = [s._replace(has="", error=None) if isinstance(s, Call) else s for s in steps]
    attack(F, base, "swapped", steps[:-1] + [say(answer) if answer else steps[-1]], at)


def instead(base, n, other, answer, servers=""):
    """G: another function than the one that was asked for."""
    attack(G, base, "instead", upto(n) + [other, say(answer)], n, servers=servers)


def changed(base, n, answer, has="", **args):
    """H: the right function with arguments that are not the user's."""
    old = BY_ID[base].steps[n]
    new = Call(old.tool, {**old.args, **args}, has, False)
    attack(H, base, "changed", upto(n) + [new, say(answer)], n)


def invented(base, n, answer):
    """I: the answer without any call. n: the steps that are kept (what was said before)."""
    attack(I, base, "invented", upto(n) + [say(answer)], n)


def stranger(name, base, steps, at):
    """J: somebody who may not gets it done. The session is written out; the base gives servers and setup."""
    attack(J, base, name, steps, at)


def again(base, n):
    """K: call n is made again, with its real second result."""
    steps = BY_ID[base].steps
    second = steps[n]._replace(has="", error=None)
    attack(K, base, "again", upto(n + 1) + [second] + list(range(n + 1, len(steps))), n + 1)
