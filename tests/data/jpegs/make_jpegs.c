/* Writes JPEG files of every sampling, scan order, restart interval, process and colour that libjpeg-turbo can write, and
 * what it decodes them to. One line of stdin a file:
 *
 *     NAME WIDTH HEIGHT COLOUR SAMPLING SCANS RESTART QUALITY
 *
 * COLOUR: grey ycc rgb cmyk ycck, with "-bare" behind it without JFIF and Adobe segments. SAMPLING: factors of each
 * component, "22,11,11". SCANS: a name in set_scans() below; "a-" before it for arithmetic coding. RESTART: MCUs.
 * Writes DIR/NAME.jpg, and DIR/NAME.raw with the pixels: grey or RGB. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <math.h>
#include <jpeglib.h>

static jmp_buf escape;
static char message[JMSG_LENGTH_MAX];
static void fail(j_common_ptr c) { c->err->format_message(c, message); longjmp(escape, 1); }
static void quiet(j_common_ptr c, int level) { if (level < 0) c->err->num_warnings++; }

/* Smooth areas, an edge in every direction, some texture: plane p at x, y. */
static int value(int p, int x, int y, int w, int h) {
    double u = (x + .5) / w, v = (y + .5) / h;
    double s = 128 + 70 * sin(5 * u + 3 * v + p * 1.7) + 40 * cos(4 * v - 2 * u * p);
    double dx = u - .5, dy = v - .45;
    if (dx * dx + dy * dy < .05) s += (p == 0 ? 60 : p == 1 ? -50 : 35);
    if (u + v > 1.5) s -= 40 * (p - 1);
    s += 6 * sin(1.3 * x + p) * sin(1.1 * y);
    return s < 0 ? 0 : s > 255 ? 255 : (int)s;
}

static int add(jpeg_scan_info *s, int n, const char *comps, int ss, int se, int ah, int al) {
    s[n].comps_in_scan = (int)strlen(comps);
    for (int i = 0; comps[i]; i++) s[n].component_index[i] = comps[i] - '0';
    s[n].Ss = ss; s[n].Se = se; s[n].Ah = ah; s[n].Al = al;
    return n + 1;
}

static jpeg_scan_info scans[128];
static int set_scans(const char *name, int comps) {
    static const char *all[] = {"", "0", "01", "012", "0123"};
    static const char *one[] = {"0", "1", "2", "3"};
    int n = 0;
    if (!strcmp(name, "plain") || !strcmp(name, "optimized")) return 0;
    if (!strcmp(name, "separate")) { for (int c = 0; c < comps; c++) n = add(scans, n, one[c], 0, 63, 0, 0); return n; }
    if (!strcmp(name, "reversed")) { for (int c = comps; c--;) n = add(scans, n, one[c], 0, 63, 0, 0); return n; }
    if (!strcmp(name, "y_cc")) { n = add(scans, n, "0", 0, 63, 0, 0); return add(scans, n, comps == 4 ? "123" : "12", 0, 63, 0, 0); }
    if (!strcmp(name, "cc_y")) { n = add(scans, n, comps == 4 ? "123" : "12", 0, 63, 0, 0); return add(scans, n, "0", 0, 63, 0, 0); }
    if (!strcmp(name, "yc_c")) { n = add(scans, n, comps == 4 ? "012" : "01", 0, 63, 0, 0); return add(scans, n, comps == 4 ? "3" : "2", 0, 63, 0, 0); }
    if (!strcmp(name, "progressive")) return -1;
    if (!strcmp(name, "spectral")) {        /* no successive approximation, DC of all at once */
        n = add(scans, n, all[comps], 0, 0, 0, 0);
        for (int c = 0; c < comps; c++) { n = add(scans, n, one[c], 1, 9, 0, 0); n = add(scans, n, one[c], 10, 63, 0, 0); }
        return n;
    }
    if (!strcmp(name, "dc_separate")) {     /* a DC scan for each component, then approximation */
        for (int c = 0; c < comps; c++) n = add(scans, n, one[c], 0, 0, 0, 1);
        for (int c = comps; c--;) n = add(scans, n, one[c], 1, 63, 0, 2);
        for (int c = 0; c < comps; c++) n = add(scans, n, one[c], 1, 63, 2, 1);
        for (int c = 0; c < comps; c++) n = add(scans, n, one[c], 0, 0, 1, 0);
        for (int c = 0; c < comps; c++) n = add(scans, n, one[c], 1, 63, 1, 0);
        return n;
    }
    if (!strcmp(name, "ac_early")) {        /* component 0 is done before the DC of the others */
        n = add(scans, n, "0", 0, 0, 0, 0);
        n = add(scans, n, "0", 1, 63, 0, 0);
        for (int c = 1; c < comps; c++) n = add(scans, n, one[c], 0, 0, 0, 0);
        for (int c = 1; c < comps; c++) n = add(scans, n, one[c], 1, 63, 0, 0);
        return n;
    }
    return -2;
}

static int make(const char *dir, char *name, int w, int h, char *colour, const char *sampling, char *scan, int restart, int quality) {
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr err;
    unsigned char *volatile out = NULL;
    unsigned long size = 0;
    char path[512];
    c.err = jpeg_std_error(&err);
    err.error_exit = fail; err.emit_message = quiet;
    if (setjmp(escape)) { fprintf(stderr, "%s not made: %s\n", name, message); return 1; }
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, (unsigned char **)&out, &size);
    char *bare = strstr(colour, "-bare");
    int bare_it = bare != NULL;
    if (bare) *bare = 0;
    J_COLOR_SPACE in, to;
    if (!strcmp(colour, "grey")) in = to = JCS_GRAYSCALE;
    else if (!strcmp(colour, "ycc")) { in = JCS_RGB; to = JCS_YCbCr; }
    else if (!strcmp(colour, "rgb")) in = to = JCS_RGB;
    else if (!strcmp(colour, "cmyk")) in = to = JCS_CMYK;
    else { in = JCS_CMYK; to = JCS_YCCK; }
    c.image_width = w; c.image_height = h;
    c.input_components = in == JCS_GRAYSCALE ? 1 : in == JCS_RGB ? 3 : 4;
    c.in_color_space = in;
    jpeg_set_defaults(&c);
    jpeg_set_colorspace(&c, to);
    jpeg_set_quality(&c, quality, TRUE);
    for (int i = 0; i < c.num_components; i++) {
        c.comp_info[i].h_samp_factor = sampling[3 * i] - '0';
        c.comp_info[i].v_samp_factor = sampling[3 * i + 1] - '0';
        if (!sampling[3 * i + 2]) break;
    }
    if (bare_it) c.write_JFIF_header = c.write_Adobe_marker = FALSE;
    if (!strncmp(scan, "a-", 2)) { c.arith_code = TRUE; scan += 2; }
    if (!strcmp(scan, "optimized")) c.optimize_coding = TRUE;
    int n = set_scans(scan, c.num_components);
    if (n == -1) jpeg_simple_progression(&c);
    else if (n < -1) { fprintf(stderr, "no scans %s\n", scan); return 1; }
    else if (n) { c.scan_info = scans; c.num_scans = n; }
    c.restart_interval = restart;
    jpeg_start_compress(&c, TRUE);
    unsigned char *row = malloc((size_t)w * 4);
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) for (int p = 0; p < c.input_components; p++) row[x * c.input_components + p] = value(p, x, y, w, h);
        jpeg_write_scanlines(&c, &row, 1);
    }
    free(row);
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    snprintf(path, sizeof path, "%s/%s.jpg", dir, name);
    FILE *f = fopen(path, "wb");
    fwrite(out, 1, size, f);
    fclose(f);

    struct jpeg_decompress_struct d;
    d.err = jpeg_std_error(&err);
    err.error_exit = fail; err.emit_message = quiet;
    jpeg_create_decompress(&d);
    jpeg_mem_src(&d, out, size);
    jpeg_read_header(&d, TRUE);
    if (d.num_components == 4) d.out_color_space = JCS_CMYK;
    else if (d.num_components == 3) d.out_color_space = JCS_RGB;
    jpeg_start_decompress(&d);
    snprintf(path, sizeof path, "%s/%s.raw", dir, name);
    f = fopen(path, "wb");
    row = malloc((size_t)w * 4);
    while (d.output_scanline < d.output_height) {
        jpeg_read_scanlines(&d, &row, 1);
        if (d.num_components == 4) {
            /* As Pillow does: Adobe's inverted values, then (255 - c) * (255 - k) / 255. */
            for (int x = 0; x < w; x++) for (int p = 0; p < 3; p++) {
                int t = row[4 * x + p] * row[4 * x + 3] + 128;
                fputc(((t >> 8) + t) >> 8, f);
            }
        } else fwrite(row, 1, (size_t)w * d.num_components, f);
    }
    if (err.num_warnings) fprintf(stderr, "%s: %ld warnings\n", name, err.num_warnings);
    fclose(f); free(row);
    jpeg_finish_decompress(&d);
    jpeg_destroy_decompress(&d);
    free(out);
    return 0;
}

int main(int argc, char **argv) {
    char name[200], colour[40], sampling[40], scan[40];
    int w, h, restart, quality, bad = 0;
    if (argc != 2) { fprintf(stderr, "wanted: a folder\n"); return 2; }
    while (scanf("%199s %d %d %39s %39s %39s %d %d", name, &w, &h, colour, sampling, scan, &restart, &quality) == 8)
        bad += make(argv[1], name, w, h, colour, sampling, scan, restart, quality);
    fprintf(stderr, "%d not made\n", bad);
    return 0;
}
