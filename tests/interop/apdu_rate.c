/* Commands per second through PC/SC, of two cards turn by turn, so that both see the same machine.
 * usage: apdu_rate ROUNDS COMMANDS READER READER; prints "median-rate median-rate ratio", the ratio being the first card's of the second's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <winscard.h>

#define ROUNDS_MAX 101

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(const char *what, LONG result)
{
	if (result != SCARD_S_SUCCESS) {
		fprintf(stderr, "%s: %s\n", what, pcsc_stringify_error(result));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static const BYTE select[] = { 0x00, 0xA4, 0x04, 0x00, 0x08, 0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00, 0x00 };
	static double rates[2][ROUNDS_MAX];
	SCARDCONTEXT context;
	SCARDHANDLE card[2];
	DWORD protocol[2];
	double median[2];

	if (argc != 5)
		return 2;
	int rounds = atoi(argv[1]), commands = atoi(argv[2]);
	if (rounds < 1 || rounds > ROUNDS_MAX || commands < 1)
		return 2;
	check("establish", SCardEstablishContext(SCARD_SCOPE_USER, NULL, NULL, &context));
	for (int c = 0; c < 2; c++)
		check(argv[3 + c], SCardConnect(context, argv[3 + c], SCARD_SHARE_SHARED, SCARD_PROTOCOL_T0 | SCARD_PROTOCOL_T1,
						&card[c], &protocol[c]));
	for (int round = 0; round < rounds; round++)
		for (int c = 0; c < 2; c++) {
			const SCARD_IO_REQUEST *pci = protocol[c] == SCARD_PROTOCOL_T0 ? SCARD_PCI_T0 : SCARD_PCI_T1;
			double begun = seconds();
			for (int i = 0; i < commands; i++) {
				BYTE answer[300];
				DWORD len = sizeof answer;
				check("transmit", SCardTransmit(card[c], pci, select, sizeof select, NULL, answer, &len));
				if (len < 2 || answer[len - 2] != 0x90) {
					fprintf(stderr, "card %d: not 9000\n", c);
					return 1;
				}
			}
			rates[c][round] = commands / (seconds() - begun);
		}
	for (int c = 0; c < 2; c++) {
		qsort(rates[c], (size_t)rounds, sizeof rates[c][0], compare);
		median[c] = rates[c][rounds / 2];
		SCardDisconnect(card[c], SCARD_RESET_CARD);
	}
	printf("%.0f %.0f %.3f\n", median[0], median[1], median[0] / median[1]);
	return 0;
}
