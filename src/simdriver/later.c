#include "simdriver/drv.h"
CUresult capture_add(struct stream *s, struct work *w){(void)s;work_free(w);return CUDA_ERROR_NOT_SUPPORTED;}
CUresult capture_unsafe(struct ctx *c){(void)c;return 0;}
CUresult capture_forbid(struct stream *s){(void)s;return 0;}
CUresult capture_legacy(struct stream *s){(void)s;return 0;}
CUresult capture_wait(struct stream *s, struct event*e, unsigned f){(void)s;(void)e;(void)f;return CUDA_ERROR_NOT_SUPPORTED;}
CUresult capture_record(struct stream *s, struct event*e, unsigned f){(void)s;(void)e;(void)f;return CUDA_ERROR_NOT_SUPPORTED;}
void capture_invalidate(struct capture *c){(void)c;}
void capture_leave(struct stream *s){(void)s;}
void capture_drop_ctx(struct ctx *c){(void)c;}
