/* SPDX-License-Identifier: MIT */
/* The page's look. The hues are Okabe and Ito's, which colour-blind readers tell apart; what they
 * mean is always written beside them as well. */
#include "cli/report.h"

#define LIGHT                                                                                      \
        "--page:#fbfbfa;--card:#fff;--ink:#1b1d21;--soft:#5c626d;--line:#dcdee2;--grid:#e9eaed;"   \
        "--wait:#cfd3da;--setup:#56b4e9;--copy:#0072b2;--stop:#b5484b;--bytes:#d55e00;"            \
        "--device:#e69f00;--handover:#f0e442;--resume:#009e73;--rollback:#cc79a7;"                 \
        "--dark-ink:#16181c;--light-ink:#fff;--good:#00724f;--bad:#b3261e;--shade:#d55e0016;"

/* In two, since C promises no longer strings. */
static const char page_style[] =
        ":root{color-scheme:light dark;" LIGHT "}"
        "@media (prefers-color-scheme:dark){:root{--page:#15171b;--card:#1d2026;--ink:#e8eaee;"
        "--soft:#a0a7b4;--line:#343942;--grid:#2a2e36;--wait:#4a505c;--setup:#56b4e9;--copy:#"
        "3a9bdc;"
        "--stop:#d9797b;--bytes:#e8772a;--good:#35c495;--bad:#ff8a80;--shade:#e8772a24;}}"
        "@media print{:root{" LIGHT "--page:#fff;}}"
        "*{box-sizing:border-box}"
        "body{margin:0;background:var(--page);color:var(--ink);"
        "font:15px/1.5 system-ui,'Segoe UI','Liberation Sans','DejaVu Sans',sans-serif;"
        "-webkit-print-color-adjust:exact;print-color-adjust:exact}"
        "main{max-width:1040px;margin:0 auto;padding:32px 24px 48px}"
        "h1{font-size:1.75rem;line-height:1.2;margin:4px 0 6px;overflow-wrap:anywhere;"
        "letter-spacing:-.01em}"
        "h2{font-size:1.1rem;margin:0 0 4px}h3{font-size:.9rem;margin:16px 0 2px}"
        "p{margin:0 0 10px}.soft{color:var(--soft)}.small{font-size:.85rem}"
        "code,.mono{font-family:ui-monospace,'Liberation Mono','DejaVu Sans Mono',monospace;"
        "font-size:.88em;overflow-wrap:anywhere}"
        "header{margin-bottom:22px}"
        ".kicker{font-size:.78rem;letter-spacing:.09em;text-transform:uppercase;color:var(--soft)}"
        ".outcome{display:inline-block;padding:2px 12px;border-radius:99px;font-weight:600;"
        "border:1.5px solid currentColor;margin-right:8px}"
        ".good{color:var(--good)}.bad{color:var(--bad)}"
        "section{background:var(--card);border:1px solid var(--line);border-radius:10px;"
        "padding:18px 20px 16px;margin:0 0 16px}"
        ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;"
        "margin:0 0 16px}"
        ".cards div{background:var(--card);border:1px solid var(--line);border-radius:10px;"
        "padding:12px 16px}"
        ".cards b{display:block;font-size:1.5rem;line-height:1.25;font-weight:650;"
        "font-variant-numeric:tabular-nums}"
        ".why{border-left:5px solid var(--bad)}.why p{overflow-wrap:anywhere}"
        "table{border-collapse:collapse;width:100%;font-size:.88rem;"
        "font-variant-numeric:tabular-nums}"
        "th,td{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid var(--grid);"
        "vertical-align:top;overflow-wrap:anywhere}"
        "th{color:var(--soft);font-weight:600;white-space:nowrap}"
        "thead th{border-bottom-color:var(--line);overflow-wrap:normal}"
        ".n{text-align:right;white-space:nowrap}"
        "td:last-child,th:last-child{padding-right:0}"
        ".sum td{font-weight:650;border-top:1.5px solid var(--line)}"
        ".differs{font-weight:650}.wide{overflow-x:auto}"
        ".facts "
        "td:first-child{white-space:nowrap}.two{display:grid;grid-template-columns:repeat(auto-fit,"
        "minmax(300px,1fr));gap:8px 28px}"
        ".key{display:inline-block;width:.95em;height:.95em;border-radius:3px;margin-right:7px;"
        "vertical-align:-.12em;border:1px solid var(--soft)}";

static const char drawing_style[] =
        "svg{display:block;width:100%;height:auto;margin:6px 0 8px}"
        "svg text{font:12px system-ui,'Liberation Sans','DejaVu Sans',sans-serif;fill:var(--ink);"
        "font-variant-numeric:tabular-nums}"
        "svg .axis{fill:var(--soft);font-size:11px}svg .lane{font-weight:600}"
        "svg .on-light{fill:var(--dark-ink)}svg .on-dark{fill:var(--light-ink)}"
        ".grid{stroke:var(--grid);stroke-width:1}.rule{stroke:var(--line);stroke-width:1}"
        ".block{stroke:var(--card);stroke-width:1}.shade{fill:var(--shade)}"
        ".edge{stroke:var(--bytes);stroke-width:1;stroke-dasharray:3 3}"
        ".hatch{stroke:var(--dark-ink);stroke-width:1.4;opacity:.5}"
        ".f-wait{fill:var(--wait);background:var(--wait)}"
        ".f-setup{fill:var(--setup);background:var(--setup)}"
        ".f-copy{fill:var(--copy);background:var(--copy)}"
        ".f-stop{fill:var(--stop);background:var(--stop)}"
        ".f-bytes{fill:var(--bytes);background:var(--bytes)}"
        ".f-device{fill:var(--device);background:var(--device)}"
        ".f-handover{fill:var(--handover);background:var(--handover)}"
        ".f-resume{fill:var(--resume);background:var(--resume)}"
        ".f-rollback{fill:var(--rollback);background:var(--rollback)}"
        ".s-a{stroke:var(--copy);fill:none;stroke-width:2}"
        ".s-b{stroke:var(--bytes);fill:none;stroke-width:2;stroke-dasharray:6 3}"
        ".m-a{fill:var(--copy)}.m-b{fill:var(--card);stroke:var(--bytes);stroke-width:1.6}"
        "details summary{cursor:pointer;font-weight:600}"
        "footer{color:var(--soft);font-size:.82rem;margin-top:18px}"
        "@media (max-width:640px){main{padding:18px 12px}section{padding:14px 12px}}"
        "@media print{@page{margin:13mm}body{font-size:9.5pt}main{max-width:none;padding:0}"
        "section,.cards div{border-radius:4px}section{padding:9px 12px;margin-bottom:10px}"
        "header{margin-bottom:12px}h2,h3{break-after:avoid}"
        "tr,svg,.cards,.chart,.two,.two>div{break-inside:avoid}.wide{overflow:visible}"
        "th,td{padding:1.5px 8px 1.5px 0;font-size:8.5pt}svg text{font-size:14px}"
        "svg .axis{font-size:13px}.two{grid-template-columns:2fr 3fr}"
        ".cards b{font-size:1.2rem;white-space:nowrap}"
        ".cards{grid-template-columns:repeat(4,1fr)}}";

void report_style(FILE *f) {
        fputs(page_style, f);
        fputs(drawing_style, f);
}
