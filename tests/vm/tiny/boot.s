/* SPDX-License-Identifier: MIT */
/* QEMU finds this note and enters in 32-bit protected mode, paging off, interrupts off, flat
 * segments, %ebx = hvm_start_info (Xen's PVH boot protocol). */

        .section .note.xen, "a", @note
        .long   4, 4, 18        /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .long   entry

        .section .text.entry, "ax"
        .code32
        .globl  entry
entry:
        cld
        lgdt    gdt_pointer
        ljmp    $8, $1f
1:      movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $stack_top, %esp
        xorl    %ebp, %ebp
        movl    $bss_start, %edi        /* a reset comes here again: .data is the loader's job */
        movl    $bss_end, %ecx
        subl    %edi, %ecx
        xorl    %eax, %eax
        rep stosb
        pushl   %ebx
        call    tiny_main
2:      cli
        hlt
        jmp     2b

/* The tick and COM1: both only end a hlt. */
        .globl  irq_entry
irq_entry:
        pushl   %eax
        movb    $0x20, %al
        outb    %al, $0x20
        popl    %eax
        iret

/* Anything else is a bug here: say so and stop. */
        .globl  trap_entry
trap_entry:
        call    tiny_trap

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff
        .quad   0x00cf92000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .section .bss
        .balign 16
        .skip   8192
stack_top:

        .section .note.GNU-stack, "", @progbits
