/* SPDX-License-Identifier: MIT */
#include "machine.h"

#define COM1      0x3f8
#define COM1_LSR  (COM1 + 5)
#define LSR_INPUT 0x01
#define LSR_EMPTY 0x20
#define FIFO_SIZE 16

#define OUTPUT_SIZE 2048U /* a power of two */

#define PIT_HZ  1193182U
#define PIC1    0x20
#define PIC2    0xa0
#define VECTORS 48
#define IRQ0    32 /* vectors: the tick */
#define IRQ4    36 /* COM1 */

#define PCI_ADDRESS  0xcf8
#define PCI_DATA     0xcfc
#define ICH9_PMBASE  (0x80000000U | 0x1fU << 11 | 0x40) /* 00:1f.0, the LPC bridge */
#define PMBASE_USUAL 0x600                              /* where SeaBIOS puts it */

void irq_entry(void);
void trap_entry(void);
__attribute__((noreturn)) void tiny_trap(void);

static uint32_t pm_base;

void machine_init_serial(void) {
        outb(COM1 + 1, 0);
        outb(COM1 + 3, 0x80);
        outb(COM1, 1);
        outb(COM1 + 1, 0);
        outb(COM1 + 3, 3);
        outb(COM1 + 2, 7);
        outb(COM1 + 1, 1); /* received bytes interrupt */
        outb(COM1 + 4, 0x0b);

        outl(PCI_ADDRESS, ICH9_PMBASE);
        pm_base = inl(PCI_DATA) & 0xff80U;
        if (pm_base == 0 || pm_base == 0xff80U)
                pm_base = PMBASE_USUAL;
}

void machine_init_tick(uint32_t hz) {
        static struct { uint16_t offset_low, selector, type, offset_high; } idt[VECTORS];
        struct __attribute__((packed)) {
                uint16_t limit;
                uint32_t base;
        } pointer = { sizeof(idt) - 1, (uint32_t)(uintptr_t)idt };
        uint32_t period = PIT_HZ / hz;

        for (unsigned i = 0; i < VECTORS; i++) {
                uintptr_t entry = (uintptr_t)(i == IRQ0 || i == IRQ4 ? irq_entry : trap_entry);

                idt[i].offset_low = (uint16_t)entry;
                idt[i].selector = 8;
                idt[i].type = 0x8e00;
                idt[i].offset_high = (uint16_t)(entry >> 16);
        }
        __asm__ volatile("lidt %0" ::"m"(pointer), "m"(idt));

        outb(PIC1, 0x11);
        outb(PIC2, 0x11);
        outb(PIC1 + 1, IRQ0);
        outb(PIC2 + 1, IRQ0 + 8);
        outb(PIC1 + 1, 4);
        outb(PIC2 + 1, 2);
        outb(PIC1 + 1, 1);
        outb(PIC2 + 1, 1);
        outb(PIC1 + 1, 0xee);
        outb(PIC2 + 1, 0xff);

        outb(0x43, 0x34);
        outb(0x40, (uint8_t)period);
        outb(0x40, (uint8_t)(period >> 8));
        __asm__ volatile("sti" ::: "memory");
}

void machine_wait(void) {
        __asm__ volatile("hlt" ::: "memory");
}

uint64_t machine_time(void) {
        static uint64_t total;
        static uint32_t last;
        static bool started;
        uint32_t now = inl((uint16_t)(pm_base + 8)) & 0xffffffU;

        if (started)
                total += (now - last) & 0xffffffU;
        started = true;
        last = now;
        return total;
}

/* Whole lines wait here for the other end; one that finds no room is dropped. */
static struct {
        char bytes[OUTPUT_SIZE];
        uint32_t sent, lines_end, end; /* count for ever; sent <= lines_end <= end */
        bool no_room;
} output;

static void output_byte(char byte) {
        if (output.end - output.sent == OUTPUT_SIZE)
                output.no_room = true;
        else
                output.bytes[output.end++ % OUTPUT_SIZE] = byte;
        if (byte != '\n')
                return;
        if (output.no_room)
                output.end = output.lines_end;
        output.lines_end = output.end;
        output.no_room = false;
}

void serial_put(const char *text) {
        while (*text)
                output_byte(*text++);
}

void serial_flush(void) {
        while (output.sent != output.lines_end && (inb(COM1_LSR) & LSR_EMPTY))
                for (unsigned i = 0; i < FIFO_SIZE && output.sent != output.lines_end; i++)
                        outb(COM1, (uint8_t)output.bytes[output.sent++ % OUTPUT_SIZE]);
}

void serial_put_number(uint64_t n) {
        char text[21];
        unsigned i = sizeof(text) - 1;

        text[i] = '\0';
        do
                text[--i] = (char)('0' + divide(&n, 10));
        while (n);
        serial_put(&text[i]);
}

void serial_put_hex(uint32_t n) {
        char text[] = "0x00000000";

        for (unsigned i = 9; i >= 2; i--, n >>= 4)
                text[i] = "0123456789abcdef"[n & 15];
        serial_put(text);
}

int serial_get(void) {
        return inb(COM1_LSR) & LSR_INPUT ? inb(COM1) : -1;
}

static __attribute__((noreturn)) void stop(void) {
        for (;;)
                __asm__ volatile("cli; hlt");
}

void machine_power_off(void) {
        outw((uint16_t)(pm_base + 4), 1U << 13); /* PM1a: SLP_EN, type 0 is S5 on a q35 */
        outw((uint16_t)(pm_base + 4), 0);
        stop();
}

void machine_reset(void) {
        outb(0xcf9, 0x02);
        outb(0xcf9, 0x06);
        outb(0x64, 0xfe);
        stop();
}

void tiny_trap(void) {
        serial_put("TINY TRAP\n");
        serial_flush();
        stop();
}
