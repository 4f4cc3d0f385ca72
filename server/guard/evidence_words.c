/* evidence_words.c - words by what they tell: the lists of evidence.h. English. */
#include "evidence_parts.h"

#include <pthread.h>
#include <string.h>

#define SLOT_BITS 12

static const char *const listed[GD_LISTS] = {
    [GD_LIST_POWER] =
        " adm admin administrator all allaccess any anyone arbitrary backdoor backend bypass "
        "cluster console control database db debug direct elevate elevated entire escalate "
        "eval every everyone everything exec execute force full fullaccess global god grant "
        "host hypervisor impersonate internal kernel level low maintenance masquerade master "
        "operator ops override owner plane platform priv privilege privileged raw root "
        "rootless shell sql su sudo super superaccess superpower superuser supervisor sys "
        "sysadmin system terminal unchecked unfiltered unguarded unlimited unrestricted "
        "unsafe unscoped unverified whole without ",
    [GD_LIST_RULES] =
        " access account accounts admin audit backup backups billing branch bucket certificate "
        "certificates cluster credit customer customers database databases disk dns domain "
        "firewall fund funds grade grades group groups hosting index key keys ledger license "
        "limit log logs member members org organisation organization owner owners password "
        "passwords payroll permission permissions policy prod production quota record records "
        "registry repo repository reserve role roles salary security server site snapshot "
        "snapshots staff table tables tenant token treasury user users vault volume workspace ",
    [GD_LIST_RIGHTS] =
        " access admin administrator administrators admins allowed approval approve approved "
        "assistant authorised authorize authorized behalf boss cannot ceo cfo clearance "
        "contractor department director employee employees entitled external guest head "
        "intern lead manager may must officer only owner permission permissions policy "
        "readonly responsible restricted rights role security staff supervisor temp temporary "
        "trainee vendor viewer visitor ",
    [GD_LIST_CLAIMS] =
        " actually admin am anonymous asked behalf believe boss ceo colleague contractor cto "
        "director doctor ex family friend head here husband i im intern just lawyer m manager "
        "me mode my myself neighbor neighbour new officer owner partner police really student "
        "support teacher team told trust used we wife ",
    [GD_LIST_CHANGES] =
        " activate add adjust apply approve archive assign ban block book buy cancel change "
        "charge clear close convert create deactivate decrease delete deploy disable drop "
        "edit enable execute forward grant increase insert install invite issue lock make "
        "merge modify move new open order override pay payment post publish purge push put "
        "reactivate refund register reject remove rename renew reply reserve reset restart "
        "revoke run save scale schedule send set share sign start stop submit subscribe "
        "switch transfer turn unlock update upload void waive wipe wire withdraw write ",
    [GD_LIST_READS] =
        " any are calculate check compare count describe details display fetch find get "
        "history how info is list look lookup query read search show status tell view what "
        "when where which who ",
    [GD_LIST_TROUBLE] =
        " can cannot couldn denied error errors exception fail failed fails failure forbidden "
        "invalid missing not sorry timeout unable unauthorized unavailable unfortunately ",
    [GD_LIST_OPEN] =
        " active building busy in later open pending processing progress queued running "
        "scheduled started starting waiting ",
    [GD_LIST_ORDERS] =
        " agent always assistant forward ignore immediately important instead instruction "
        "instructions must never note now override password please previous secret system "
        "transfer urgent user ",
    [GD_LIST_AGAIN] =
        " again also another check else further latest more next now once recheck refresh "
        "repeat resend retry same second still too twice update ",
    [GD_LIST_CONFIRMS] =
        " agreed ahead approved confirm confirmed correct exactly fine go great ok okay "
        "perfect please proceed right sure yeah yep yes ",
    [GD_LIST_CONDITIONS] =
        " after before check confirm depending draft first if make once only otherwise preview "
        "sure then unless until verified verify when whether ",
    [GD_LIST_NEGATIONS] =
        " but cannot don dont except hold instead keep leave never no not nothing rather stop "
        "t wait without ",
    [GD_LIST_RELATIVE] =
        " afternoon ago current day days evening friday half hour hours last later midnight "
        "minutes mon monday month months morning next noon quarter recent saturday sun sunday "
        "this thu thursday today tomorrow tonight tue tuesday until wed wednesday week "
        "weekend weeks year yesterday ",
    [GD_LIST_DONE] =
        " activated added approved booked canceled cancelled changed closed complete completed "
        "confirmed created deleted deployed done enjoy found here issued merged moved opened "
        "ordered paid placed playing posted processed published ready recorded registered "
        "removed renamed reserved restarted returned saved scheduled sent set submitted "
        "success successful successfully transferred turned updated ",
    [GD_LIST_MAKES] =
        " add append build create draft generate insert log make new open post put record "
        "register save start upload write ",
    [GD_LIST_REMOVES] =
        " ban block cancel clear close deactivate decommission delete deprovision destroy "
        "detach disable dismiss drop empty erase evict expire expunge flush kill lock nuke "
        "obliterate overwrite purge remove reset revoke rollback shutdown suspend takedown "
        "terminate trash truncate uninstall unpublish unsubscribe void wipe ",
    [GD_LIST_SENDS] =
        " announce broadcast email export forward invite mail message notify post publish push "
        "reply send share sms submit tweet upload ",
    [GD_LIST_PAYS] =
        " buy charge checkout deposit invest order pay purchase refund sell trade transfer "
        "wire withdraw ",
    [GD_LIST_BOOKS] =
        " appointment book booking calendar hire hold meeting plan rent reservation reserve "
        "schedule ",
    [GD_LIST_EDITS] =
        " adjust apply archive assign change configure convert correct edit enable fix label "
        "merge modify move patch rename replace reschedule restore set switch tag toggle turn "
        "update ",
    [GD_LIST_RUNS] =
        " build command deploy exec execute install invoke launch play restart rollback run "
        "scale shell start stop test trigger ",
    [GD_LIST_FINDS] =
        " browse calculate check compare compute count describe details display estimate fetch "
        "find get how info know list look lookup open query read search see show status "
        "summarize summary tell track view what when where which who ",
};

/* In a name: it can do much, however it is written. */
static const char *const stems[] = {
    "admin", "root",   "super",     "sudo",       "priv",     "master", "god",      "exec",
    "raw",   "unsafe", "uncheck",   "unrestrict", "bypass",   "shell",  "terminal", "internal",
    "debug", "owner",  "allaccess", "fullaccess", "override", "force",  "elevat",   "imperson"};

static struct {
    struct gd_str word;
    uint32_t lists;
} slots[1 << SLOT_BITS];
static pthread_once_t filled = PTHREAD_ONCE_INIT;

/* Where the word is or would be; there is always a free slot. */
static size_t slot_of(struct gd_str word)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < word.len; i++)
        h = (h ^ (unsigned char)word.ptr[i]) * 16777619u;
    size_t i = h >> (32 - SLOT_BITS);
    while (slots[i].lists != 0 && !gd_str_eq(slots[i].word, word))
        i = (i + 1) % (1 << SLOT_BITS);
    return i;
}

static void fill(void)
{
    for (int l = 0; l < GD_LISTS; l++) {
        const struct gd_str words = gd_str_from(listed[l]);
        struct gd_str word;
        for (size_t at = 0; gd_words_next(words, &at, &word);) {
            const size_t i = slot_of(word);
            slots[i].word = word;
            slots[i].lists |= 1u << l;
        }
    }
}

/* The lists that a word is on, as bits. */
static uint32_t lists_of(struct gd_str word)
{
    return slots[slot_of(word)].lists;
}

void gd_evidence_count_lists(const struct gd_words *w, float count[GD_LISTS])
{
    const struct gd_str words = {w->text.data, w->text.len};
    struct gd_str word;
    pthread_once(&filled, fill);
    memset(count, 0, GD_LISTS * sizeof *count);
    for (size_t at = 0; gd_words_next(words, &at, &word);) {
        const uint32_t lists = lists_of(word);
        for (int l = 0; lists && l < GD_LISTS; l++)
            if (count[l] < GD_EVIDENCE_COUNT_MAX)
                count[l] += (float)(lists >> l & 1);
    }
}

uint32_t gd_evidence_lists(const float count[GD_LISTS])
{
    uint32_t lists = 0;
    for (int l = 0; l < GD_LISTS; l++)
        lists |= (uint32_t)(count[l] > 0) << l;
    return lists;
}

uint32_t gd_evidence_stems(struct gd_str name)
{
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof stems / sizeof stems[0]; i++)
        count += memmem(name.ptr, name.len, stems[i], strlen(stems[i])) != NULL;
    return count;
}

uint32_t gd_evidence_said_rights(const struct gd_notes *n)
{
    const struct gd_str words = gd_str_from(listed[GD_LIST_RIGHTS]);
    struct gd_str word;
    uint32_t count = 0;
    for (size_t at = 0; gd_words_next(words, &at, &word);)
        count += gd_history_has(n->said, word, gd_words_hash(&n->words, word));
    return count;
}
