/* SPDX-License-Identifier: MIT */
#include "cli/html.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* One character: its length in bytes, 0 when there is none. */
static size_t decode(const unsigned char *at, uint32_t *ret) {
        static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
        size_t n = *at < 0x80 ? 1 : *at >= 0xf0 ? 4 : *at >= 0xe0 ? 3 : *at >= 0xc0 ? 2 : 0;
        uint32_t c = n == 1 ? *at : n == 0 ? 0 : *at & (0xffu >> (n + 1));

        if (n == 0 || *at >= 0xf8)
                return 0;
        for (size_t i = 1; i < n; i++) {
                if ((at[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (at[i] & 0x3f);
        }
        if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
                return 0;
        *ret = c;
        return n;
}

static bool is_plain(uint32_t c) {
        if (c == '\t' || c == '\n')
                return true;
        if (c < ' ' || (c >= 0x7f && c < 0xa0))
                return false;
        if ((c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))
                return false;
        return (c & 0xfffe) != 0xfffe;
}

void html_text(FILE *f, const char *text) {
        const unsigned char *at = (const unsigned char *)text;

        while (*at) {
                uint32_t c = 0;
                size_t n = decode(at, &c);

                if (n == 0 || !is_plain(c))
                        fputs(REPLACEMENT, f);
                else if (c == '&')
                        fputs("&amp;", f);
                else if (c == '<')
                        fputs("&lt;", f);
                else if (c == '>')
                        fputs("&gt;", f);
                else if (c == '"')
                        fputs("&quot;", f);
                else if (c == '\'')
                        fputs("&#39;", f);
                else
                        (void)fwrite(at, 1, n, f);
                at += n > 0 ? n : 1;
        }
}

static void put_real(FILE *f, unsigned digits, double value) {
        char buffer[64];

        /* no infinity, and no figure that fills the page */
        if (!(value > -1e15 && value < 1e15))
                value = 0;
        snprintf(buffer, sizeof(buffer), "%.*f", (int)digits, value);
        fputs(buffer, f);
}

void html_put(FILE *f, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        for (const char *c = format; *c; c++) {
                if (*c != '%') {
                        (void)fputc(*c, f);
                        continue;
                }
                c++;
                if (*c == '%')
                        (void)fputc('%', f);
                else if (*c == 's')
                        html_text(f, va_arg(ap, const char *));
                else if (*c == 'c')
                        html_text(f, (char[]){ (char)va_arg(ap, int), '\0' });
                else if (*c == 'd')
                        (void)fprintf(f, "%d", va_arg(ap, int));
                else if (*c == 'u')
                        (void)fprintf(f, "%u", va_arg(ap, unsigned));
                else if (strncmp(c, "llu", 3) == 0) {
                        (void)fprintf(f, "%llu", va_arg(ap, unsigned long long));
                        c += 2;
                } else {
                        assert(c[0] == '.' && c[1] >= '0' && c[1] <= '9' && c[2] == 'f');
                        put_real(f, (unsigned)(c[1] - '0'), va_arg(ap, double));
                        c += 2;
                }
        }
        va_end(ap);
}
