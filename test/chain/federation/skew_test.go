package federation

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// skewed moves the wall clock of one process by some seconds. The kernel's page
// with the code that reads the clock is private to a process, so its entry is
// replaced by one that asks the kernel and adds the seconds:
//
//	mov eax, 228 (clock_gettime); syscall; test edi, edi (CLOCK_REALTIME); jne 1f
//	add qword [rsi], seconds; 1: ret
func skewed(seconds int32) (func(pid int) error, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("the clock of one process can be moved on amd64 only, this is %s", runtime.GOARCH)
	}
	begin, end, err := vdso(os.Getpid())
	if err != nil {
		return nil, err
	}
	image := make([]byte, end-begin)
	if err := access(os.Getpid(), os.O_RDONLY, func(f *os.File) error { _, err := f.ReadAt(image, begin); return err }); err != nil {
		return nil, err
	}
	e, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	symbols, err := e.DynamicSymbols()
	if err != nil {
		return nil, err
	}
	code := []byte{0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0x85, 0xff, 0x75, 7, 0x48, 0x81, 0x06}
	code = append(binary.LittleEndian.AppendUint32(code, uint32(seconds)), 0xc3)
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" {
			continue
		}
		return func(pid int) error {
			begin, _, err := vdso(pid)
			if err != nil {
				return err
			}
			return access(pid, os.O_WRONLY, func(f *os.File) error { _, err := f.WriteAt(code, begin+int64(s.Value)); return err })
		}, nil
	}
	return nil, fmt.Errorf("the kernel's page has no __vdso_clock_gettime")
}

// vdso is where a process sees the kernel's page.
func vdso(pid int) (begin, end int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasSuffix(line, "[vdso]\n") {
			_, err := fmt.Sscanf(line, "%x-%x", &begin, &end)
			return begin, end, err
		}
	}
	return 0, 0, fmt.Errorf("process %d has no page of the kernel", pid)
}

func access(pid, flag int, f func(*os.File) error) error {
	m, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), flag, 0)
	if err != nil {
		return err
	}
	defer m.Close()
	return f(m)
}
