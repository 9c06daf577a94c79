#include "textflag.h"

// func spawn(calls *call, n, stack, errFD uintptr) int64
TEXT ·spawn(SB), NOSPLIT, $0-40
	MOVQ calls+0(FP), R12
	MOVQ n+8(FP), R13
	MOVQ stack+16(FP), SI
	MOVQ errFD+24(FP), R15
	MOVL $0x4111, DI // CLONE_VM | CLONE_VFORK | SIGCHLD
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $56, AX // clone
	SYSCALL
	TESTQ AX, AX
	JZ   child
	MOVQ AX, ret+32(FP)
	RET

child:
	XORL BX, BX // the number of the call

next:
	MOVL $71, DX // EPROTO
	CMPQ BX, R13
	JCC  fail
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	SYSCALL
	CMPQ 64(R12), $0
	JNE  any
	CMPQ AX, 56(R12)
	JNE  unexpected

done:
	ADDQ $72, R12
	INCQ BX
	JMP  next

any:
	CMPQ AX, $-4095
	JCS  done

unexpected:
	MOVL $71, DX
	CMPQ AX, $-4095
	JCS  fail
	NEGQ AX
	MOVL AX, DX

fail:
	MOVQ SP, SI // a failure, below the top of the stack
	SUBQ $16, SI
	MOVL $2, 0(SI) // tableAgent
	MOVL BX, 4(SI)
	MOVL DX, 8(SI)
	MOVQ R15, DI
	MOVL $12, DX
	MOVL $1, AX // write
	SYSCALL

exit:
	MOVL $125, DI
	MOVL $231, AX // exit_group
	SYSCALL
	JMP  exit
