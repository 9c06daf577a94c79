#include "textflag.h"

// func spawn(calls *call, n, stack, errFD uintptr) int64
TEXT ·spawn(SB), NOSPLIT, $0-40
	MOVD calls+0(FP), R19
	MOVD n+8(FP), R20
	MOVD stack+16(FP), R1
	MOVD errFD+24(FP), R21
	MOVD $0x4111, R0 // CLONE_VM | CLONE_VFORK | SIGCHLD
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $220, R8 // clone
	SVC
	CBZ  R0, child
	MOVD R0, ret+32(FP)
	RET

child:
	MOVD ZR, R22 // the number of the call

next:
	MOVD $71, R9 // EPROTO
	CMP  R20, R22
	BHS  fail
	MOVD 0(R19), R8
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	SVC
	MOVD 64(R19), R10
	CBNZ R10, any
	MOVD 56(R19), R10
	CMP  R10, R0
	BNE  unexpected

done:
	ADD $72, R19
	ADD $1, R22
	B   next

any:
	MOVD $-4095, R10
	CMP  R10, R0
	BLO  done

unexpected:
	MOVD $71, R9
	MOVD $-4095, R10
	CMP  R10, R0
	BLO  fail
	NEG  R0, R9

fail:
	MOVD RSP, R1 // a failure, below the top of the stack
	SUB  $16, R1
	MOVW $2, R10 // tableAgent
	MOVW R10, 0(R1)
	MOVW R22, 4(R1)
	MOVW R9, 8(R1)
	MOVD R21, R0
	MOVD $12, R2
	MOVD $64, R8 // write
	SVC

exit:
	MOVD $125, R0
	MOVD $94, R8 // exit_group
	SVC
	B    exit
