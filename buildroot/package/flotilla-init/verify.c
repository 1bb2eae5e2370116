#define _GNU_SOURCE
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_alg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common.h"

#define HASH_BYTES 32

/* A socket that the kernel hashes with (CONFIG_CRYPTO_USER_API_HASH). */
static int open_hash(void)
{
	struct sockaddr_alg address = { .salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256" };
	int maker = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (maker < 0 || bind(maker, (struct sockaddr *)&address, sizeof address) != 0)
		fail("flotilla.verify=1, but this kernel cannot hash: %s", strerror(errno));
	int hash = accept(maker, NULL, NULL);
	if (hash < 0)
		fail("flotilla.verify=1, but this kernel cannot hash: %s", strerror(errno));
	close(maker);
	return hash;
}

static void hash_file(const char *path, char hex[2 * HASH_BYTES + 1])
{
	static char bytes[65536];
	uint8_t digest[HASH_BYTES];
	ssize_t length;
	int hash = open_hash();
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail("open %s: %s", path, strerror(errno));
	while ((length = read(file, bytes, sizeof bytes)) > 0)
		if (send(hash, bytes, length, MSG_MORE) != length)
			fail("hash %s: %s", path, strerror(errno));
	if (length < 0)
		fail("read %s: %s", path, strerror(errno));
	if (read(hash, digest, sizeof digest) != sizeof digest)
		fail("hash %s: %s", path, strerror(errno));
	for (size_t n = 0; n < sizeof digest; n += 1)
		sprintf(hex + 2 * n, "%02x", digest[n]);
	close(file);
	close(hash);
}

/* The description is canonical JSON: keys are sorted and there are no spaces. */
static void verify_artifact(const char *slot, const char *description, const char *name)
{
	char path[256], key[128], hex[2 * HASH_BYTES + 1];
	snprintf(key, sizeof key, "\"name\":\"%s\",\"sha256\":\"", name);
	snprintf(path, sizeof path, BOOT "/releases/%s/%s", slot, name);
	const char *wanted = strstr(description, key);
	if (wanted == NULL) {
		if (access(path, F_OK) == 0)
			fail("%s is not in the release's description", name);
		return;
	}
	hash_file(path, hex);
	if (strncmp(wanted + strlen(key), hex, 2 * HASH_BYTES) != 0)
		fail("%s does not match the release's description", name);
}

void verify_slot(const char *slot)
{
	const size_t most = 1 << 20;
	char path[256], *description = malloc(most);
	snprintf(path, sizeof path, BOOT "/releases/%s/description.json", slot);
	if (description == NULL || read_file(path, description, most) < 0)
		fail("read %s: %s", path, strerror(errno));
	verify_artifact(slot, description, "rootfs.squashfs");
	verify_artifact(slot, description, "modules.squashfs");
	free(description);
}
