#include "textflag.h"

// func call(addr uintptr) uint64
TEXT ·call(SB), NOSPLIT, $0-16
	MOVQ addr+0(FP), BX
	XORL AX, AX
	CALL BX
	MOVQ AX, ret+8(FP)
	RET

// func int80(nr uint64) uint64: a call through the 32-bit gate
TEXT ·int80(SB), NOSPLIT, $0-16
	MOVQ nr+0(FP), AX
	XORL BX, BX
	BYTE $0xCD; BYTE $0x80
	MOVQ AX, ret+8(FP)
	RET

// func victimAddr() uintptr
TEXT ·victimAddr(SB), NOSPLIT, $0-8
	LEAQ ·victim(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// Two pages of return instructions, so that one whole page holds nothing else.
#define Q QUAD $0xC3C3C3C3C3C3C3C3
#define Q8 Q; Q; Q; Q; Q; Q; Q; Q
#define Q64 Q8; Q8; Q8; Q8; Q8; Q8; Q8; Q8
#define Q512 Q64; Q64; Q64; Q64; Q64; Q64; Q64; Q64

TEXT ·victim(SB), NOSPLIT, $0-0
	Q512; Q512; Q512
	RET
