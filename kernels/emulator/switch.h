// Changing from one stack to another.
//
// Only the registers a called function must keep are saved: 7 to 20 ns a switch, where the operating system's own
// (swapcontext, with a system call for the signal mask) takes 360. One assembly text per processor.
#pragma once

#if defined(__APPLE__)
#define MACHINE_SYMBOL "_machine_switch"
#else
#define MACHINE_SYMBOL "machine_switch"
#endif

// Saves the caller's registers and stack pointer to `*from`, then continues what was saved at `to`.
extern "C" void machine_switch(void** from, void* to) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
asm(".text\n.globl " MACHINE_SYMBOL "\n" MACHINE_SYMBOL ":\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  popq %rcx\n  jmp *%rcx\n");  // not `ret`: its prediction would be of another stack

// A stack that starts in `function` once it is switched to; `top` is aligned to 16.
static inline void* machine_prepare(char* top, void (*function)()) {
  void** sp = reinterpret_cast<void**>(top) - 8;  // six registers, the address, and the 8 bytes a call would have pushed
  for (int i = 0; i < 8; ++i) sp[i] = nullptr;
  sp[6] = reinterpret_cast<void*>(function);
  return sp;
}
#elif defined(__aarch64__)
asm(".text\n.globl " MACHINE_SYMBOL "\n.p2align 2\n" MACHINE_SYMBOL ":\n"
    "  sub sp, sp, #160\n"
    "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n"
    "  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
    "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n  ldp x25, x26, [sp, #48]\n"
    "  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  add sp, sp, #160\n  ret\n");

static inline void* machine_prepare(char* top, void (*function)()) {
  void** sp = reinterpret_cast<void**>(top) - 20;
  for (int i = 0; i < 20; ++i) sp[i] = nullptr;
  sp[11] = reinterpret_cast<void*>(function);  // x30
  return sp;
}
#else
#error "the emulator's stack switch is written for x86-64 and aarch64"
#endif
