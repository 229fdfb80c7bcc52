/* The least card there can be, for vpcd: every command is answered with the same FCI. What an SE can at best be compared with.
 * usage: trivial_card PORT */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int s;

static void receive(unsigned char *to, size_t len)
{
	while (len) {
		int on = 1;
		/* Lasts for one acknowledgement only. */
		setsockopt(s, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
		ssize_t n = recv(s, to, len, 0);
		if (n <= 0)
			exit(0);
		to += n;
		len -= (size_t)n;
	}
}

int main(int argc, char **argv)
{
	static const unsigned char atr[] = { 0, 5, 0x3B, 0x80, 0x80, 0x01, 0x01 };
	static const unsigned char fci[] = { 0, 20, 0x6F, 0x10, 0x84, 0x08, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00,
		0xA5, 0x04, 0x9F, 0x65, 0x01, 0xFF, 0x90, 0x00 };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned char body[65536], length[2];
	int on = 1;

	to.sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "35963"));
	s = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(s, (struct sockaddr *)&to, sizeof to)) {
		perror("connect");
		return 1;
	}
	for (;;) {
		receive(length, 2);
		size_t len = (size_t)length[0] << 8 | length[1];
		receive(body, len);
		if (len == 1 && body[0] != 4)
			continue;
		if (len == 1 ? send(s, atr, sizeof atr, 0) < 0 : send(s, fci, sizeof fci, 0) < 0)
			return 1;
	}
}
