package resolvers

const javaLookup = `public class Lookup { public static void main(String[] a) throws Exception {
  for (java.net.InetAddress i : java.net.InetAddress.getAllByName(a[0])) System.out.println(i.getHostAddress()); } }
`

const muslLookup = `#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int n, char **a) {
	struct addrinfo hint = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *r;
	int e = getaddrinfo(a[1], 0, &hint, &r);
	char s[64];
	if (e) return printf("%s\n", e == EAI_NONAME ? "EAI_NONAME" : e == EAI_AGAIN ? "EAI_AGAIN" : gai_strerror(e)), 1;
	for (; r; r = r->ai_next) puts(inet_ntop(AF_INET, &((struct sockaddr_in *)r->ai_addr)->sin_addr, s, sizeof s));
	return 0;
}
`

// recvmsgLookup makes the calls of __res_msend in musl 1.2.4 and later, which
// Debian 12 does not have: a socket that is bound and not connected, a query to
// the server's address, and an answer that counts only if it names that address.
const recvmsgLookup = `#include <arpa/inet.h>
#include <poll.h>
#include <resolv.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int n, char **a) {
	unsigned char q[512], r[512];
	struct sockaddr_in ns = {.sin_family = AF_INET, .sin_port = htons(53)}, sa = {0}, any = {.sin_family = AF_INET};
	char line[256], server[64] = "";
	FILE *conf = fopen("/etc/resolv.conf", "r");
	while (conf && !*server && fgets(line, sizeof line, conf)) sscanf(line, "nameserver %63s", server);
	if (inet_pton(AF_INET, server, &ns.sin_addr) != 1) return puts("no name server"), 1;
	int len = res_mkquery(0, a[1], 1, 1, 0, 0, 0, q, sizeof q);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (void *)&any, sizeof any)) return perror("socket"), 1;
	if (sendto(fd, q, len, MSG_NOSIGNAL, (void *)&ns, sizeof ns) != len) return perror("sendto"), 1;
	struct pollfd p = {fd, POLLIN};
	if (poll(&p, 1, 5000) != 1) return puts("no answer"), 1;
	struct msghdr mh = {.msg_name = &sa, .msg_namelen = sizeof sa, .msg_iovlen = 1, .msg_iov = (struct iovec[]){{r, sizeof r}}};
	if (recvmsg(fd, &mh, 0) < 4) return perror("recvmsg"), 1;
	if (memcmp(&ns, &sa, sizeof ns)) return puts("another source"), 1;
	if ((r[3] & 15) == 3) return puts("NXDOMAIN"), 1;
	printf("198.19.%d.%d\n", r[len + 14], r[len + 15]);
	return 0;
}
`
