/* SPDX-License-Identifier: GPL-2.0-only */
/* The deny list: prefixes whose packets no service gets. */
#pragma once

#include "lb.h"
#include "maps.h"
#include "packet.h"

static __always_inline bool is_denied(const struct conf *conf, const struct packet *pkt)
{
	struct prefix key = { .length = 32 + 128, .family = pkt->family };

	if (!(conf->flags & CONF_DENY))
		return false;
	__builtin_memcpy(key.address, pkt->client, sizeof(key.address));
	return denied.lookup(&key);
}
