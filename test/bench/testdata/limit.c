/* The floor to compare with: no_new_privs, a Landlock domain for files and TCP
 * ports, and a seccomp filter of a few instructions, then exec. No proxy, no
 * supervisor. Usage: limit WRITABLE-DIR CMD ARG... */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ruleset { uint64_t fs, net, scoped; };
struct path_rule { uint64_t access; int32_t parent; } __attribute__((packed));

static void fail(const char *what) { perror(what); exit(125); }

static void grant(int rs, const char *path, uint64_t access) {
	struct path_rule r = { .access = access, .parent = open(path, O_PATH | O_CLOEXEC) };
	if (r.parent < 0 || syscall(SYS_landlock_add_rule, rs, 1, &r, 0)) fail(path);
	close(r.parent);
}

int main(int argc, char **argv) {
	if (argc < 3) { fprintf(stderr, "usage: limit DIR CMD ARG...\n"); return 2; }
	const uint64_t read_only = 1 | 4 | 8; /* execute, read_file, read_dir */
	const uint64_t all = (1ULL << 16) - 1;
	struct ruleset attr = { .fs = all, .net = 3, .scoped = 0 };
	int rs = syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
	if (rs < 0) fail("landlock_create_ruleset");
	const char *ro[] = { "/usr", "/etc", "/proc", "/dev", "/tmp", "/opt" };
	for (size_t i = 0; i < sizeof ro / sizeof *ro; i++) grant(rs, ro[i], read_only);
	grant(rs, "/dev/null", 2 | 4 | 1ULL << 14);
	grant(rs, argv[1], all);
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xc000003e, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = sizeof f / sizeof *f, .filter = f };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no_new_privs");
	if (syscall(SYS_landlock_restrict_self, rs, 0)) fail("landlock_restrict_self");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog)) fail("seccomp");
	execvp(argv[2], argv + 2);
	fail(argv[2]);
}
